"""`make bench-page`: the page beside a world that is played for it (hack/page_world.py): no cluster, no operator.

The page runs as the chart runs it, with TLS, and Debian's Chromium signs in with a token; with 200 programs and with
1,000, each of two pods that answer requests all the time.

- rss_mib, idle_cpu_percent: of the page's process with 1,000 programs while nobody looks; of one core.
- programs: first contentful paint of the list, and how much of the browser's main thread a live list takes.
- event_to_page_seconds_max: from a change of a manifest, or of what pods count, until it is seen on the page.
- spans_10000_ms: until a trace of so many spans can be read.
- js_css_gzip_kib: all script and style; nobody but the page may be asked for anything.
- axe_violations: in all views, light and dark, 1280 and 390 px wide; lighthouse_accessibility: the worst view's score.
  Both come from npm, into the cache; without it they are null, which misses the goal.

It needs port 8081 of many loopback addresses. Figures go to out/bench-page.json; the exit code is 1 when one missed its
goal. REST_SECONDS (30) is how long nobody looks; PROGRAMS=1000 leaves out what is measured with fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import shutil
import statistics
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from despina.dashboard.render import assets
from page_world import NAMESPACES, TOKEN, TRACE_ID, name_of, namespace_of
from services import Processes, free_port
from tools import ROOT, Failed, fetch_axe, fetch_lighthouse, install_packages, run, say

OUT = ROOT / "out" / "bench-page.json"
SIZES = tuple(map(int, os.environ.get("PROGRAMS", "200,1000").split(",")))
REST_SECONDS = float(os.environ.get("REST_SECONDS", "30"))
WARM_SECONDS = 30.0
LOADS, EVENTS, WATCHED_SECONDS = 7, 10, 15
EVENT_SECONDS = 20.0
"""Until an event that does not show counts as lost."""
VIEWS = (
    "/",
    "/?problems=1",
    "/?q=nothing-like-that",
    "/p/{}",
    "/p/{}?range=24h",
    "/p/{}/traces",
    "/p/{}/ask",
    "/p/none/none",
)
LOOKED_AT = ("/", "/p/{}", "/p/{}/traces", "/p/{}/ask")
"""By Lighthouse, which takes long."""
TICKS = os.sysconf("SC_CLK_TCK")
GOALS: dict[str, float] = {
    "rss_mib": 150, "idle_cpu_percent": 3, "fcp_ms": 300, "main_thread_percent": 2, "event_to_page_seconds_max": 2,
    "js_css_gzip_kib": 100, "axe_violations": 0, "spans_10000_ms": 1000,
}  # fmt: skip
"""At most."""
SEEN = """([key, part, text]) => new Promise((done) => {
  const place = `[data-key="${key}"] [data-f="${part}"]`, now = () => document.querySelector(place)?.textContent;
  const look = () => { if ((now() ?? text) !== text) { watcher.disconnect(); done(Date.now() / 1000); } };
  const watcher = new MutationObserver(look);
  watcher.observe(document.body, { subtree: true, childList: true, characterData: true });
  look();
})"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
READABLE = """() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"""
OPENED = "document.querySelectorAll('details').forEach((one, number) => { one.open = number < 20; })"
VIOLATIONS = "async () => (await axe.run()).violations.map((v) => `${v.id}: ${v.nodes[0].html}`)"


class World:
    """The played world and the page's process."""

    def __init__(self, programs: int) -> None:
        self.programs = programs
        self.folder = ROOT / "out" / "bench-page"
        self.processes = Processes(self.folder)
        self.world, self.page = free_port(), free_port()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"https://localhost:{self.page}"

    def start(self) -> None:
        """Until the page answers."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "keys").mkdir(parents=True)
        (self.folder / "keys" / "root").write_text("root")
        server = f"http://127.0.0.1:{self.world}"
        (self.folder / "kubeconfig").write_text(json.dumps(kubeconfig(server)))
        played = [sys.executable, str(ROOT / "hack" / "page_world.py"), str(self.programs), str(self.world)]
        self.processes.start("world", played)
        self.processes.wait_for_http("world", f"{server}/api/v1/namespaces/none/pods")
        env = {
            "KUBECONFIG": str(self.folder / "kubeconfig"),
            "DESPINA_WATCH_NAMESPACES": ",".join(map(namespace_of, range(NAMESPACES))),
            "DESPINA_READ_KEYS": str(self.folder / "keys"),
            "DESPINA_DASHBOARD_PORT": str(self.page),
        }
        self.processes.start("page", [sys.executable, "-m", "despina.cli", "dashboard"], env)

    def tell(self, program: int, **said: Any) -> dict[str, float]:
        """Something happens to a program, or nothing; the moment at which it did, and how often pods were asked."""
        body = json.dumps({"program": program, **said}).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.world}/played", body, method="POST")
        with urllib.request.urlopen(asked, timeout=10) as answer:
            found: dict[str, float] = json.loads(answer.read())
            return found

    def cpu_seconds(self) -> float:
        """That the page's process took so far."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_mib(self) -> float:
        """That it holds."""
        (line,) = [line for line in self._proc("status").splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.processes.started['page'].pid}/{name}").read_text()


def kubeconfig(server: str) -> dict[str, Any]:
    """That leads to the played API server."""
    return {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
        "users": [{"name": "u", "user": {"token": "t"}}],
    }


class Bench:
    """One run."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.figures: dict[str, Any] = {"programs": {}}
        self.strangers: set[str] = set()
        """Others that were asked for something."""

    async def size(self, programs: int) -> None:
        """Everything that is measured with so many programs; with the most, whatever hangs on no number."""
        world = World(programs)
        try:
            world.start()
            await self._signed_in(world)
            if programs == max(SIZES):
                await self._idle(world)
            self.figures["programs"][str(programs)] = await self._live(world)
            if programs == max(SIZES):
                await self._rest(world)
        finally:
            world.processes.stop_all()

    async def _signed_in(self, world: World) -> None:
        """A person, and the page knows all programs."""
        self.state: Any = None
        async with asyncio.timeout(120), self.tab(world) as page:
            while True:
                with contextlib.suppress(self.error):
                    await page.goto(world.url)
                    break
                await asyncio.sleep(0.5)
            await page.fill("#token", TOKEN)
            await page.click("main button")
            await page.wait_for_selector("#live")
            while await page.locator(".row").count() < world.programs:
                await asyncio.sleep(1)
                await page.goto(world.url)
            self.state = await page.context.storage_state()

    @property
    def error(self) -> type[Exception]:
        """What the browser raises."""
        from playwright.async_api import Error

        return Error

    @contextlib.asynccontextmanager
    async def tab(self, world: World, width: int = 1280, scheme: str = "light") -> AsyncIterator[Any]:
        """A browser that has loaded nothing yet, signed in if somebody is."""
        size = {"width": width, "height": 900}
        context = await self.browser.new_context(
            viewport=size, color_scheme=scheme, ignore_https_errors=True, storage_state=getattr(self, "state", None)
        )
        page = await context.new_page()
        page.on("request", lambda asked: asked.url.startswith(world.url) or self.strangers.add(asked.url))
        try:
            yield page
        finally:
            await context.close()

    async def _idle(self, world: World) -> None:
        """Nobody looks."""
        await asyncio.sleep(WARM_SECONDS)
        before, then = world.cpu_seconds(), world.tell(0)
        await asyncio.sleep(REST_SECONDS)
        took, now = world.cpu_seconds() - before, world.tell(0)
        seconds, asked = now["at"] - then["at"], now["asked"] - then["asked"]
        share, memory = round(100 * took / seconds, 1), round(world.rss_mib(), 1)
        self.figures |= {"idle_cpu_percent": share, "rss_mib": memory}
        each = f"{asked / seconds:.0f} questions a second, {1e6 * took / max(1, asked):.0f} µs each"
        say(f"Nobody looks: {share} % of a core, {memory} MiB; {each}")

    async def _live(self, world: World) -> dict[str, float]:
        """The list, opened by browsers that have nothing of it, and then watched."""
        paints = []
        for _ in range(LOADS):
            async with self.tab(world) as page:
                await page.goto(world.url)
                await page.wait_for_selector('#live[data-level="ok"]')
                paints.append(await page.evaluate(PAINTED))
        async with self.tab(world) as page:
            await page.goto(world.url)
            await page.wait_for_selector('#live[data-level="ok"]')
            await asyncio.sleep(5)  # until it is drawn, and its figures have come once
            share = await self._busy(page)
        found = {"fcp_ms": round(statistics.median(paints)), "main_thread_percent": round(100 * share, 2)}
        say(f"{world.programs} programs: {found}")
        return found

    async def _busy(self, page: Any) -> float:
        """How much of the main thread's time a live page takes."""
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable")

        async def took() -> tuple[float, float]:
            said = {one["name"]: one["value"] for one in (await session.send("Performance.getMetrics"))["metrics"]}
            return said["TaskDuration"], said["Timestamp"]

        before, then = await took()
        await asyncio.sleep(WATCHED_SECONDS)
        after, now = await took()
        return (after - before) / (now - then)

    async def _rest(self, world: World) -> None:
        loaded = [asset.body for name, asset in assets().items() if name.endswith((".js", ".css"))]
        self.figures["js_css_gzip_kib"] = round(sum(len(gzip.compress(body)) for body in loaded) / 1024, 1)
        self.figures["event_to_page_seconds_max"] = round(max(await self._events(world)), 2)
        self.figures["spans_10000_ms"] = round(await self._spans(world))
        self.figures["axe_violations"] = await self._axe(world)
        self.figures["lighthouse_accessibility"] = await self._lighthouse(world)

    async def _events(self, world: World) -> list[float]:
        """Rows that are on the screen: every other time a manifest changes, else what pods count does."""
        took = []
        async with self.tab(world) as page:
            await page.goto(world.url)
            await page.wait_for_selector('#live[data-level="ok"]')
            await page.locator('.row[data-level="ok"]').first.evaluate("(one) => one.scrollIntoView()")
            await asyncio.sleep(12)  # until the pods of what is seen are asked every second
            seen = await page.locator('.row[data-level="ok"]').evaluate_all(ON_SCREEN)
            if len(seen) < EVENTS:
                raise Failed(f"only {len(seen)} healthy programs are on the screen")
            for number, key in enumerate(seen[:EVENTS]):
                took.append(await self._event(world, page, key, is_counted=number % 2 == 1))
        say(f"From an event to the page: {[round(t, 2) for t in took]} s")
        return took

    async def _event(self, world: World, page: Any, key: str, is_counted: bool) -> float:
        part = "errors" if is_counted else "word"
        text = await page.locator(f'[data-key="{key}"] [data-f="{part}"]').inner_text()
        seeing = asyncio.create_task(page.evaluate(SEEN, [key, part, text]))
        await asyncio.sleep(0.2)
        program = int(key.rpartition("-")[2])
        status = {"breaker": {"state": "Open", "reason": "12 of 20 failed"}}
        at = (world.tell(program, fails=True) if is_counted else world.tell(program, status=status))["at"]
        try:
            return float(await asyncio.wait_for(seeing, EVENT_SECONDS)) - at
        except TimeoutError:
            return EVENT_SECONDS

    async def _spans(self, world: World) -> float:
        """The median of a few times until the waterfall can be read, by browsers that have nothing of the page."""
        took = []
        for _ in range(3):
            async with self.tab(world) as page:
                answer = await page.goto(f"{world.url}/p/{whole_name(0)}/traces/{TRACE_ID}")
                if answer.status != 200 or not await page.locator(".span").count():
                    raise Failed(f"the trace was answered with {answer.status}: {await page.inner_text('main')}")
                took.append(float(await page.evaluate(READABLE)))
        say(f"10,000 spans: {[round(t) for t in took]} ms")
        return statistics.median(took)

    async def _axe(self, world: World) -> int | None:
        script = fetch_axe()
        if script is None:
            return None
        found: list[str] = []
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                async with self.tab(world, width, scheme) as page:
                    views = [view.format(whole_name(0)) for view in VIEWS]
                    for path in (*views, f"/p/{whole_name(0)}/traces/{TRACE_ID}?span=5", "/login"):
                        await page.goto(world.url + path)
                        await page.evaluate(OPENED)
                        await page.evaluate(script.read_text())
                        found += [f"{path} {width} {scheme} {one}" for one in await page.evaluate(VIOLATIONS)]
        for one in found[:20]:
            say(f"axe: {one}")
        return len(found)

    async def _lighthouse(self, world: World) -> float | None:
        script = fetch_lighthouse()
        if script is None:
            return None
        cookie = "; ".join(f"{one['name']}={one['value']}" for one in self.state["cookies"])
        scores = [
            await asyncio.to_thread(scored, script, world.url + view.format(whole_name(0)), cookie)
            for view in LOOKED_AT
        ]
        say(f"Lighthouse: {scores}")
        return min(scores)


ON_SCREEN = """(all) => all.filter((one) => {
  const at = one.getBoundingClientRect();
  return at.top > 0 && at.bottom < innerHeight;
}).map((one) => one.dataset.key)"""


def whole_name(program: int) -> str:
    """Its namespace and name, as addresses have them."""
    return f"{namespace_of(program)}/{name_of(program)}"


def scored(script: Path, url: str, cookie: str) -> float:
    """What Lighthouse says of one view, of 100."""
    flags = "--headless --no-sandbox --ignore-certificate-errors"
    command = ["node", str(script), url, "--only-categories=accessibility", "--output=json", "--quiet"]
    headers = json.dumps({"Cookie": cookie})
    env = {**os.environ, "CHROME_PATH": str(shutil.which("chromium")), "LIGHTHOUSE_DISABLE_ERROR_REPORTING": "1"}
    said = run([*command, f"--extra-headers={headers}", f"--chrome-flags={flags}"], capture=True, env=env)
    return round(100 * float(json.loads(said)["categories"]["accessibility"]["score"]), 1)


def missed(figures: dict[str, Any], strangers: set[str]) -> list[str]:
    """Goals that were not reached."""
    flat = figures | {f"{name} {n}": value for n, one in figures["programs"].items() for name, value in one.items()}
    found = [
        f"{name}: {flat[name]}, at most {GOALS[name.split()[0]]:g}"
        for name in flat
        if name.split()[0] in GOALS and (flat[name] is None or flat[name] > GOALS[name.split()[0]])
    ]
    if figures["lighthouse_accessibility"] != 100:
        found.append(f"lighthouse_accessibility: {figures['lighthouse_accessibility']}, 100")
    return found + [f"something else was asked for: {url}" for url in sorted(strangers)]


async def main() -> int:
    """Measure, print and write."""
    from playwright.async_api import async_playwright

    if os.geteuid() == 0 and shutil.which("apt-get"):
        install_packages(["chromium", "fonts-dejavu-core"])
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        bench = Bench(browser)
        for programs in SIZES:
            await bench.size(programs)
        await browser.close()
    OUT.write_text(json.dumps(bench.figures, indent=1) + "\n")
    say(json.dumps(bench.figures, indent=1))
    found = missed(bench.figures, bench.strangers)
    for one in found:
        say(f"MISSED {one}")
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except Failed as exc:
        say(f"FAILED: {exc}")
        sys.exit(1)
