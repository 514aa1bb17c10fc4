"""Schedules that did harm once, each as short as it could be made, with what went wrong in words."""

from __future__ import annotations

import pytest

from despina.wire import FailureReason
from tests.support.simulator.registry import OTHER_SERVER, SERVER, Nature
from tests.support.simulator.schedule import KINDS, run

AUTO, SCALED, SWAP, FIRST = (KINDS[name] for name in ("Auto with breaker", "autoscaled", "HotSwap", "first start"))
BLUE_GREEN, RECREATE, BY_HAND, DAMAGED = (KINDS[name] for name in ("BlueGreen", "Recreate", "by hand", "damaged"))
BROKEN, ERRING, SLOW, MILD = Nature(broken=True), Nature(errors=30), Nature(slow=True), Nature(errors=5)
UNFIT = {gate: Nature(fails=frozenset([gate])) for gate in ("Smoke", "SchemaCompatibility", "Evaluate")}
STATUS_REFUSED = ("refused", ("DSPyProgram/status", "patch", 403))
EVENTS_REFUSED = ("refused", ("Event", "create", 429))
RELEASED = [("rounds", 6), ("rounds", 6)]
"""Enough for a version to come to serve."""

SCHEDULES = {
    "callers are sent back by hand to a version that erred before, and stay": (
        (BLUE_GREEN, {"1": MILD}, [("rounds", 6), ("alias", "2"), *RELEASED, ("alias", "1"), *RELEASED])
    ),
    "callers are pinned to what served, and no gate is in the way": (
        (SWAP, {"1": UNFIT["Smoke"]}, [("alias", "2"), *RELEASED, ("wait", 700.0), ("pin", 1), *RELEASED])
    ),
    "a bad version is taken back though no Event can be written": (
        (BLUE_GREEN, {"2": ERRING}, [EVENTS_REFUSED, ("alias", "2"), *RELEASED, ("rounds", 6)])
    ),
    "a bad version is taken back, once, though no status can be written": (
        (BLUE_GREEN, {"2": ERRING}, [("alias", "2"), ("rounds", 6), STATUS_REFUSED, *RELEASED, ("rounds", 6)])
    ),
    "a bad version is taken back in the same pods, though no status can be written": (
        (SWAP, {"2": ERRING}, [("alias", "2"), ("rounds", 3), STATUS_REFUSED, *RELEASED, ("rounds", 6)])
    ),
    "a slow version is taken back": (BLUE_GREEN, {"2": SLOW}, [("alias", "2"), *RELEASED]),
    "nothing is promoted, nor gated, while the program is suspended": (
        (AUTO, {"2": BROKEN}, [("suspend", True), ("alias", "2"), *RELEASED, ("suspend", False), *RELEASED])
    ),
    "nothing is promoted at size 0": (AUTO, {"3": UNFIT["Smoke"]}, [("replicas", 0), ("rounds", 1), ("alias", "3")]),
    "nothing of a candidate runs while the program is suspended": (
        (SWAP, {}, [("key_replaced", ("key-2",)), ("cpu", "2"), ("rounds", 1), ("suspend", True)])
    ),
    "a suspended program whose Recreate is under way runs no pods": (
        (RECREATE, {}, [("suspend", True), ("model_made_anew", None)])
    ),
    "a pause in the middle of a Recreate leaves callers somebody": (
        (RECREATE, {}, [("alias", "4"), ("rounds", 1), ("paused", True)])
    ),
    "a prepared version waits as long as it must": (
        (BY_HAND, {}, [("alias", "2"), ("rounds", 6), ("wait", 700.0), ("unready_for_a_moment", 1), ("operate", None)])
    ),
    "an abort that no record tells of acts again after a restore, and that is no error": (
        (
            DAMAGED,
            {},
            [
                ("alias", "2"),
                ("backup", None),
                ("restored", (False, False)),
                ("abort", "candidate"),
                ("backup", None),
                ("restored", (False, True)),
            ],
        )
    ),
    "a score that was compared with nothing, while what serves was away, convicts nobody": (
        (
            AUTO,
            {},
            [("model_made_anew", None), ("deleted", ("Deployment", 0)), ("rounds", 1), ("deleted", ("Deployment", 0))],
        )
    ),
    "a gate's time goes on over a pass that meant another version and was outrun": (
        (
            BY_HAND,
            {},
            [
                ("lm", "a"),
                ("rounds", 2),
                ("wait", 700.0),
                ("replicas", 0),
                ("pin", 2),
                ("interrupted", 1),
                ("pin", 1),
            ],
        )
    ),
    "an evaluation under way outlives a moment of unreadiness": (
        (BLUE_GREEN, {}, [("alias", "2"), ("rounds", 4), ("unready_for_a_moment", 3), ("operate", None), ("rounds", 6)])
    ),
    "an evaluation that ends in a long pause is not begun again": (
        (
            BLUE_GREEN,
            {},
            [
                ("alias", "2"),
                ("rounds", 3),
                ("paused", True),
                ("rounds", 6),
                ("wait", 4000.0),
                ("rounds", 1),
                ("paused", False),
                *RELEASED,
            ],
        )
    ),
    "an evaluation of which no status tells yet is not begun again": (
        (BLUE_GREEN, {}, [("model_made_anew", None), ("rounds", 2), ("killed", 12)])
    ),
    "an evaluation that ended while nobody could read the program is not begun again": (
        (BY_HAND, {}, [("pin", 2), ("rounds", 6), ("away", 4000.0), ("unreadable", "DSPyProgram")])
    ),
    "a version that was made anew and aborted stays away when the one of that number is taken back": (
        BLUE_GREEN,
        {"2": ERRING},
        [
            ("source_version", 2),
            ("failing", "Program"),
            ("rounds", 4),
            ("pin", 2),
            ("registry", False),
            ("model_made_anew", None),
            ("rounds", 4),
            ("abort", "candidate"),
        ],
    ),
    "a word that was seen to be gone by a pass that wrote nothing may count as handled": (
        SWAP,
        {},
        [
            ("restart", "monday"),
            ("rounds", 1),
            ("restart", None),
            ("interrupted", 1),
            ("paused", False),
            ("interrupted", 0),
            ("restart", "monday"),
        ],
    ),
    "the status names the version that callers are sent back to, though a clock was set back": (
        AUTO,
        {},
        [
            ("source_version", 2),
            ("crash", 0),
            ("failing", "Program"),
            ("clock_jumps", -600.0),
            ("rounds", 2),
            ("rounds", 6),
            ("lm", "a"),
            ("key_replaced", ("key-1",)),
        ],
    ),
    "a breaker that opened for a version that was taken back restarts nobody": (
        (AUTO, {"2": ERRING}, [("alias", "2"), ("rounds", 12)])
    ),
    "a clock that cannot be read has not run since the process began": (
        (DAMAGED, {}, [("cpu", "1"), ("operate", None), ("status_damaged", (110, ""))])
    ),
    "callers leave nothing before it is on record that they were there": (
        FIRST,
        {"2": ERRING},
        [("interrupted", 0), ("interrupted", 0), ("pin", 2), ("refused", ("Deployment", "patch", 403))],
    ),
    "what pods were changed to is found though its labels and the status are lost": (
        DAMAGED,
        {},
        [("lm", "a"), *RELEASED, ("cpu", "1"), ("rounds", 1), ("unlabelled", ("ConfigMap", 5)), ("status_lost", None)],
    ),
    "pods that callers are led back to are not let go in the same pass": (
        DAMAGED,
        {"2": ERRING},
        [("alias", "2"), ("cpu", "1"), ("rounds", 2), ("rounds", 6), ("wait", 700.0), ("selector_edited", 0)],
    ),
    "a pause within a gate counts for nothing": (
        (
            BLUE_GREEN,
            {},
            [("alias", "2"), ("rounds", 3), ("paused", True), ("operate", None), ("wait", 700.0), ("paused", False)],
        )
    ),
    "a drained node costs an evaluation anew, not the version": (
        (BLUE_GREEN, {}, [("cpu", "1"), ("rounds", 3), ("drained", None)])
    ),
    "an edit takes effect while what is asked for is in quarantine": (
        (BLUE_GREEN, {"2": ERRING}, [("alias", "2"), *RELEASED, ("lm", "b")])
    ),
    "an edit of a version that came back takes effect": (
        BLUE_GREEN,
        {"2": ERRING},
        [("lm", "b"), ("source_version", 2)],
    ),
    "an edit that was aborted leaves callers somebody, though their Deployment is deleted": (
        (SCALED, {}, [("cpu", "2"), ("abort", "candidate"), ("deleted", ("Deployment", 3))])
    ),
    "a version is promoted by a word, and not by the same word again": (
        (
            BY_HAND,
            {},
            [
                ("alias", "2"),
                ("rounds", 6),
                ("promote", "candidate"),
                ("rounds", 2),
                ("alias", "1"),
                ("rounds", 6),
                ("alias", "2"),
                ("rounds", 6),
            ],
        )
    ),
    "a version is aborted by a word, tried again, and not aborted by the same word again": (
        (
            BY_HAND,
            {},
            [("alias", "2"), ("rounds", 2), ("abort", "candidate"), ("rounds", 2), ("retry", "2"), ("rounds", 6)],
        )
    ),
    "a version is tried again by a word, and not by the same word again": (
        (SWAP, {"3": UNFIT["Smoke"]}, [("alias", "3"), ("rounds", 6), ("retry", "3"), ("rounds", 6), ("rounds", 6)])
    ),
    "pods are restarted by a word, once, whoever else is restarted or made": (
        (SCALED, {"4": Nature(code="other", errors=30)}, [("alias", "4"), ("rounds", 2), ("restart", "tuesday")])
    ),
    "a word that goes while a pass is under way is obeyed as it was read": (
        (BY_HAND, {}, [("restart", "monday"), ("interrupted", 6), ("restart", "tuesday")])
    ),
    "a word of which no record is left is not obeyed": (DAMAGED, {}, [("restart", "tuesday"), ("memory_lost", None)]),
    "an aborted version stays aborted when the status is lost": (
        (DAMAGED, {}, [("alias", "3"), ("abort", "candidate"), ("rounds", 1), ("status_lost", None)])
    ),
    "an autoscaled program that somebody scaled to 0 is woken": (SCALED, {}, [("autoscale", 3), ("scaled_by_hand", 0)]),
    "the autoscaler of a deleted Deployment goes, too": (SCALED, {}, [("deleted", ("Deployment", 5)), ("cpu", "1")]),
    "another default server is another version": (AUTO, {}, [("default_server", OTHER_SERVER)]),
    "a model made anew is another version": (AUTO, {}, [("model_made_anew", None)]),
    "a refused version of a model that was made anew is tried": (
        (SWAP, {"3": UNFIT["Smoke"]}, [("alias", "3"), ("rounds", 6), ("model_made_anew", None)])
    ),
    "a ConfigMap that somebody deletes is made again": (
        BLUE_GREEN,
        {},
        [("deleted", ("ConfigMap", 0)), ("evicted", 0)],
    ),
    "what is deleted while the alias is missing is made again": (
        (BY_HAND, {}, [("alias", None), ("deleted", ("Deployment", 0)), ("deleted", ("Service", 0))])
    ),
    "what is deleted while nothing runs is made again when something shall": (
        (BLUE_GREEN, {}, [("replicas", 0), ("deleted", ("Deployment", 4)), ("rounds", 2), ("replicas", 2)])
    ),
    "a Service that is deleted leads to nobody who was refused": (
        (BLUE_GREEN, {"2": ERRING}, [("alias", "2"), *RELEASED, ("deleted", ("Service", 0)), ("rounds", 3)])
    ),
    "pods that fail once are tried again": (
        (BLUE_GREEN, {}, [("cpu", "2"), ("rounds", 1), ("start_fails_once", FailureReason.LOAD_FAILED), ("rounds", 1)])
    ),
    "pods that take no orders get a release in new pods": (AUTO, {}, [("key_replaced", ("key-2",)), ("alias", "2")]),
    "pods that took half of a release before the key was lost converge": (
        (SWAP, {}, [("alias", "2"), ("rounds", 2), ("orders_lost", True), ("rounds", 2), ("key_replaced", ("key-2",))])
    ),
    "a candidate that is no longer asked for is freed from memory": (
        (SWAP, {}, [("lm", "a"), ("rounds", 1), ("model_exists", False), ("default_server", OTHER_SERVER)])
    ),
    "a candidate that was loaded for a moment is freed from memory": (
        (SCALED, {}, [("source_version", 2), ("operate", None), ("source_version", 1)])
    ),
    "a paused program is at rest": (AUTO, {}, [("alias", "2"), ("paused", True)]),
    "the breaker restarts what can be healed so, within bounds": (
        (
            AUTO,
            {},
            [
                ("failing", "Program"),
                ("rounds", 6),
                ("wait", 40.0),
                ("rounds", 6),
                ("wait", 700.0),
                ("rounds", 6),
                ("wait", 700.0),
                ("rounds", 6),
                ("wait", 700.0),
                ("rounds", 6),
            ],
        )
    ),
    "a retired Deployment ends though its note of when is odd": (
        (
            DAMAGED,
            {},
            [("note_damaged", ("Deployment", 2, None)), ("lm", "a"), ("note_damaged", ("Deployment", 0, "inf"))],
        )
    ),
    "a note of what pods were made for that says something odd ends no pass": (
        (DAMAGED, {}, [("lm", "b"), ("note_damaged", ("Deployment", 0, "[]")), ("rounds", 2)])
    ),
    "a Deployment that is restored names its last restart": (
        (DAMAGED, {}, [("restart", "monday"), ("rounds", 1), ("backup", None), ("restored", (False, True))])
    ),
    "callers are led to what goes with the program that was there before": (
        (
            DAMAGED,
            {},
            [
                ("alias", "2"),
                ("backup", None),
                ("restored", (False, False)),
                ("rounds", 1),
                ("backup", None),
                ("restored", (False, False)),
                ("second_operator", 0),
            ],
        )
    ),
    "a record that a pass has written since is not lost": (
        (
            DAMAGED,
            {},
            [
                ("lm", "a"),
                ("status_damaged", (2, "odd")),
                ("abort", "candidate"),
                ("second_operator", 20),
                ("unlabelled", None),
            ],
        )
    ),
    "a namespace that is restored is made whole": (
        (DAMAGED, {}, [("alias", "2"), *RELEASED, ("backup", None), ("restored", (False, False))])
    ),
    "a namespace that is restored with its status leads to what served": (
        (DAMAGED, {"2": BROKEN}, [("alias", "2"), ("backup", None), ("restored", (True, False)), ("suspend", True)])
    ),
    "callers who were led elsewhere by hand are led back": (
        (
            DAMAGED,
            {"2": BROKEN},
            [("cpu", "1"), ("alias", "2"), ("rounds", 5), ("selector_edited", 0), ("suspend", True)],
        )
    ),
    "a second operator with old news undoes no record of a word": (
        (DAMAGED, {}, [("second_operator", 1), ("restart", "monday"), ("rounds", 1)])
    ),
    "callers who were led to a refused version while nothing runs are led back": (
        (
            DAMAGED,
            {"2": BROKEN},
            [
                ("alias", "2"),
                ("backup", None),
                ("restored", (False, True)),
                ("rounds", 5),
                ("suspend", True),
                ("rounds", 6),
                ("selector_edited", 3),
            ],
        )
    ),
    "an edit of a Recreate comes though what served has ended": (RECREATE, {}, [("cpu", "1")]),
    "an edit goes on while the registry is silent, and is another version at another server": (
        BLUE_GREEN,
        {},
        [("registry", False), ("cpu", "2"), ("default_server", OTHER_SERVER), ("rounds", 2)],
    ),
    "pods that take no orders are not sent back to what they were made for without a word": (
        SWAP,
        {},
        [("alias", "2"), ("rounds", 3), ("alias", None), ("key_replaced", ("key-2",)), ("auto_promotion", False)],
    ),
    "pods that take no orders and serve what was refused are replaced though a release is paused": (
        KINDS["availability"],
        {"1": MILD, "4": ERRING},
        [
            ("alias", "4"),
            ("restart", "monday"),
            ("rounds", 6),
            ("lm", "a"),
            ("rounds", 4),
            ("alias", "2"),
            ("paused", True),
            ("orders_refused", True),
            ("operate", None),
        ],
    ),
    "after a suspension, too, a version comes only by a word": (
        BY_HAND,
        {},
        [
            ("alias", "2"),
            ("rounds", 6),
            ("promote", "candidate"),
            ("rounds", 6),
            ("suspend", True),
            ("rounds", 3),
            ("alias", "1"),
            ("suspend", False),
            ("rounds", 6),
        ],
    ),
    "an evaluation of which no status tells yet, and that ends in a suspension, is not begun again": (
        DAMAGED,
        {},
        [
            ("lm", "a"),
            ("second_operator", 20),
            ("rounds", 9),
            ("cpu", "1"),
            ("rounds", 1),
            ("rounds", 1),
            ("second_operator", 13),
            ("suspend", True),
        ],
    ),
    "pods are restarted again by a word that came back after another": (
        SWAP,
        {},
        [
            ("restart", "tuesday"),
            ("operate", None),
            ("lm", "a"),
            ("restart", "monday"),
            ("rounds", 2),
            ("restart", "tuesday"),
        ],
    ),
    "nothing runs of a suspended program of which nobody knows what shall run": (
        DAMAGED,
        {},
        [
            ("alias", None),
            ("replicas", 2),
            ("backup", None),
            ("restored", (True, False)),
            ("second_operator", 13),
            ("status_lost", None),
            ("rounds", 6),
            ("suspend", True),
        ],
    ),
    "an edit of what serves is not let in by a pin of it": (
        DAMAGED,
        {},
        [("auto_promotion", False), ("cpu", "2"), ("pin", 1), ("rounds", 6)],
    ),
    "an evaluation is not begun again because the moment of its release was damaged": (
        DAMAGED,
        {},
        [("cpu", "2"), ("rounds", 3), ("status_damaged", (120, "[[1]]"))],
    ),
    "what another server's version was made of is not asked of this one": (
        SWAP,
        {},
        [
            ("default_server", OTHER_SERVER),
            ("deleted", ("Deployment", 1)),
            ("deleted", ("ConfigMap", 5)),
            ("model_exists", False),
        ],
    ),
    "a version that was given up while nobody could be heard is let go": (
        SWAP,
        {},
        [("alias", "3"), ("rounds", 1), ("alias", None), ("mute", True), ("rounds", 5)],
    ),
    "an abort is about the version that there was, not about one that is made anew": (
        RECREATE,
        {},
        [
            ("alias", "2"),
            ("operate", None),
            ("model_exists", False),
            ("pin", 2),
            ("abort", "candidate"),
            ("model_made_anew", None),
        ],
    ),
    "a word to try again that came before the failure lifts nothing": (
        SWAP,
        {"2": ERRING},
        [("source_version", 2), ("rounds", 2), ("crash", 5), ("default_server", SERVER), ("rounds", 3), ("retry", "2")],
    ),
    "a restart that was asked for again, meant for pods that were made in between, comes about": (
        SCALED,
        {},
        [
            ("lm", "b"),
            ("restart", "tuesday"),
            ("unready_for_a_moment", 0),
            ("operate", None),
            ("restart", None),
            ("operate", None),
            ("restart", "tuesday"),
        ],
    ),
    "a restart is on record though nobody knows what is asked for": (
        DAMAGED,
        {},
        [
            ("cpu", "2"),
            ("second_operator", 11),
            ("replicas", 0),
            ("alias", None),
            ("second_operator", 18),
            ("restart", "monday"),
            ("rounds", 3),
            ("selector_edited", 3),
        ],
    ),
    "nothing is swapped in pods that callers were led away from": (
        DAMAGED,
        {"4": Nature(code="other")},
        [
            ("alias", "4"),
            ("lm", "b"),
            ("operate", None),
            ("operate", None),
            ("pin", 1),
            ("rounds", 2),
            ("rounds", 4),
            ("wait", 40.0),
            ("selector_edited", 3),
        ],
    ),
    "pods are restarted again by a word that came back in the next moment": (
        BY_HAND,
        {},
        [("restart", "tuesday"), ("rounds", 4), ("restart", "monday"), ("operate", None), ("restart", "tuesday")],
    ),
    "what could not be made for another reason than that it is there is made later": (
        AUTO,
        {},
        [("refused", ("ConfigMap", "create", 409)), ("cpu", "2"), ("deleted", ("Deployment", 5))],
    ),
    "pods that were silent when their generation was deleted are brought back": (
        SWAP,
        {},
        [
            ("cpu", "2"),
            ("rounds", 6),
            ("alias", None),
            ("rounds", 1),
            ("refused", ("PodDisruptionBudget", "patch", 403)),
            ("deleted", ("ConfigMap", 5)),
            ("mute", True),
        ],
    ),
    "callers whose Deployment and then Service were deleted are not led past a candidate's gates": (
        AUTO,
        {},
        [
            ("cpu", "1"),
            ("model_made_anew", None),
            ("deleted", ("Deployment", 5)),
            ("operate", None),
            ("rounds", 1),
            ("deleted", ("Service", 4)),
        ],
    ),
    "what served is known when a suspended program is resumed, though its Deployment was deleted": (
        BLUE_GREEN,
        {},
        [
            ("default_server", OTHER_SERVER),
            ("abort", "candidate"),
            ("interrupted", 19),
            ("suspend", True),
            ("lm", "a"),
            ("deleted", ("Deployment", 5)),
        ],
    ),
    "what an evaluation found is noted while nobody judges it, though no status says that it was begun": (
        DAMAGED,
        {},
        [("pin", 3), ("rounds", 6), ("status_lost", None), ("wait", 4000.0), ("suspend", True)],
    ),
    "what pods were told is found out though no status says that they were": (
        (
            SWAP,
            {},
            [
                ("refused", ("DSPyProgram/status", "patch", 429)),
                ("alias", "2"),
                ("rounds", 1),
                ("mute", True),
                ("wait", 5.0),
                ("alias", "1"),
                ("rounds", 1),
            ],
        )
    ),
    "a new operator finds out what pods hold": (
        (SWAP, {}, [STATUS_REFUSED, ("alias", "2"), ("rounds", 1), ("killed", 0), ("alias", "1")])
    ),
    "pods hold nothing more though their Deployment was at size 0 for a moment": (
        (
            SWAP,
            {},
            [
                ("alias", "2"),
                ("operate", None),
                ("model_exists", False),
                ("orders_lost", True),
                ("clock_jumps", -90.0),
                ("rounds", 6),
                ("scaled_by_hand", 0),
            ],
        )
    ),
    "no gate fails because the operator was away": (
        (BLUE_GREEN, {}, [("alias", "2"), ("rounds", 3), ("away", 4000.0), *RELEASED])
    ),
    "no version is given up because the operator was away": (
        (SWAP, {}, [("mute", True), ("alias", "2"), ("rounds", 1), ("away", 4000.0), ("rounds", 1), ("mute", False)])
    ),
    "a Service that lost its labels, and alone knows what was taken back, is found by its name": (
        BLUE_GREEN,
        {"2": ERRING},
        [("alias", "2"), ("rounds", 6), STATUS_REFUSED, *RELEASED, ("rounds", 6), ("unlabelled", None), ("rounds", 1)],
    ),
    "a word to abort does not meet what serves, while a Service without labels alone says that it does": (
        DAMAGED,
        {"2": BROKEN},
        [
            ("alias", "2"),
            ("cpu", "1"),
            ("rounds", 4),
            ("rounds", 6),
            ("replicas", 0),
            ("unlabelled", None),
            ("abort", "candidate"),
        ],
    ),
    "pods stay at what they were changed to, though that was in no list for a pass": (
        SWAP,
        {},
        [("alias", "2"), *RELEASED, ("unlabelled", ("ConfigMap", 0)), ("unlabelled", ("ConfigMap", 3)), ("rounds", 1)],
    ),
    "a bad version is taken back though its Deployments had lost their labels": (
        BLUE_GREEN,
        {"2": ERRING},
        [("unlabelled", ("Deployment", 0)), ("alias", "2"), *RELEASED, ("rounds", 6)],
    ),
    "a bad version is taken back though somebody took the label of its revision off its Deployment": (
        BLUE_GREEN,
        {"2": ERRING},
        [
            ("alias", "2"),
            *RELEASED,
            ("unlabelled", ("Deployment", 1)),
            ("unlabelled", ("Deployment", 4)),
            ("rounds", 6),
        ],
    ),
    "a swap into pods whose Deployment had lost its label": (
        (SWAP, {}, [("unlabelled", ("Deployment", 0)), ("alias", "2"), ("rounds", 6)])
    ),
    "an evaluation whose Job lost its label is found again, and not begun again": (
        (BLUE_GREEN, {}, [("alias", "2"), ("rounds", 5), ("unlabelled", ("Job", 0)), ("rounds", 2)])
    ),
    "what callers left ends though its Deployment lost its label": (
        BLUE_GREEN,
        {},
        [("alias", "2"), *RELEASED, *RELEASED, *RELEASED, ("unlabelled", ("Deployment", 0)), ("wait", 700.0)],
    ),
    "what a pod was told to load before its operator stood still is heard of afterwards": (
        (
            KINDS["autoscaled"],
            {},
            [
                ("evicted", 0),
                ("model_made_anew", None),
                ("rounds", 6),
                ("lm", "a"),
                ("operate", None),
                ("wait", 4000.0),
            ],
        )
    ),
    "a pod that holds too much is heard on while it is not ready": (
        (
            KINDS["by hand"],
            {},
            [
                ("drained", None),
                ("promote", None),
                ("crash", 0),
                ("scaled_by_hand", 0),
                ("interrupted", 13),
                ("unreadable", "DSPyProgram"),
                ("drained", None),
                ("scaled_by_hand", 1),
                ("control", None),
                ("start", None),
                ("clock_jumps", -90.0),
                ("quota", 3),
                ("key_replaced", ("key-1",)),
                ("pin", 1),
                ("evicted", 1),
                ("serve", None),
                ("alias", "4"),
                ("alias", "4"),
                ("permitted", None),
                ("restart", "monday"),
                ("restart", None),
                ("jobs", None),
                ("starts_with_old_news", 5),
                ("restart", None),
                ("start", None),
                ("mute", False),
                ("rounds", 2),
                ("lm", "b"),
                ("away", 4000.0),
                ("rounds", 1),
                ("alias", "4"),
                ("unready_for_a_moment", 4),
                ("abort", "candidate"),
                ("promote", None),
                ("restart", None),
                ("retry", "odd"),
                ("wait", 40.0),
                ("restart", None),
                ("restart", None),
            ],
        )
    ),
    "what is asked for before the first record is written counts as done": (
        (KINDS["first start"], {}, [("killed", 13), ("restart", "monday")])
    ),
    "what the operator ended a day ago is paid for": (
        (
            KINDS["optimized"],
            {},
            [
                ("finds", "Lost"),
                ("labelled", (40, True)),
                ("rounds", 1),
                ("replicas", 0),
                ("labelled", (40, False)),
            ],
        )
    ),
    "what the operator ended is over though nobody looks for long": (
        (
            KINDS["optimized"],
            {},
            [
                ("optimize", "spring"),
                ("operate", None),
                ("replicas", 0),
                ("finds", "Lost"),
                ("interrupted", 16),
                ("away", 4000.0),
                ("labelled", (40, True)),
            ],
        )
    ),
    "a second operator with old news moves nobody": (
        (
            DAMAGED,
            {"2": ERRING},
            [
                ("alias", "2"),
                ("rounds", 6),
                ("second_operator", 14),
                ("alias", "1"),
                *RELEASED,
                ("second_operator", 30),
            ],
        )
    ),
}


@pytest.mark.parametrize("sentence", SCHEDULES)
def test_known_schedules(sentence):
    kind, natures, schedule = SCHEDULES[sentence]
    assert not run(kind, natures, schedule).truth.violations
