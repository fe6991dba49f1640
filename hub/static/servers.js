// The list of notebooks: stop one that runs, remove one that is stopped. The page is loaded again when it is done.
(() => {
  "use strict";
  const page = document.getElementById("servers");
  if (!page) return;
  const words = JSON.parse(document.getElementById("servers-words").textContent);
  const said = document.getElementById("servers-said");

  page.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-server]");
    if (!button) return;
    const label = button.textContent;
    button.disabled = true;
    button.textContent = words.working;
    said.hidden = true;
    try {
      const answer = await fetch(page.dataset.api + encodeURIComponent(button.dataset.server), {
        method: "DELETE",
        headers: { "X-XSRFToken": window.jhdata.xsrf_token, "Content-Type": "application/json" },
        body: JSON.stringify({ remove: button.dataset.remove === "true" }),
      });
      if (!answer.ok) throw new Error(String(answer.status));
      window.location.reload();
    } catch {
      said.textContent = words.failed;
      said.hidden = false;
      button.textContent = label;
      button.disabled = false;
    }
  });
})();
