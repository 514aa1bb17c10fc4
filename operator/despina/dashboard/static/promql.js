// Copies what stands beside a button.
addEventListener("click", async (press) => {
  const button = press.target.closest?.("[data-copy]");
  if (!button) return;
  const code = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {  // refused, or not over TLS: then it is marked, to be copied by hand
    getSelection().selectAllChildren(code);
    return tell(button, "Marked");
  }
  tell(button, "Copied");
});

function tell(button, word) {
  button.textContent = word;
  document.getElementById("said").textContent = word;
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}
