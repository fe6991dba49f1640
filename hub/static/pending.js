// The pending page: the hub's progress events as steps in plain words, a cancel button, the reason where it fails.
(() => {
  "use strict";
  const page = document.getElementById("pending");
  if (!page) return;
  const words = JSON.parse(document.getElementById("pending-words").textContent);
  const steps = [...document.querySelectorAll("#steps li")];
  const said = document.getElementById("step-said");
  const detail = document.getElementById("step-detail");
  const failure = document.getElementById("failure");
  const cancel = document.getElementById("cancel");
  let reached = -1;

  const reach = (progress) => {
    const index = steps.findLastIndex((step) => progress >= Number(step.dataset.from));
    if (index <= reached) return;
    reached = index;
    steps.forEach((step, i) => {
      step.dataset.state = i < index ? "done" : i === index ? "now" : "todo";
      if (i === index) step.setAttribute("aria-current", "step");
      else step.removeAttribute("aria-current");
    });
    said.textContent = words.now.replace("{step}", steps[index].textContent);
  };

  const fail = () => {
    if (reached >= 0) steps[reached].dataset.state = "failed";
    cancel.hidden = true;
    // The hub's own page knows the reason, with its links.
    window.location.reload();
  };

  const events = new EventSource(page.dataset.progressUrl);
  events.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.failed) {
      events.close();
      fail();
      return;
    }
    if (event.progress !== undefined) reach(event.progress);
    // What the backend says of its own step: a queue's reason, an image's layers. The hub's first and last events say no more than the list.
    if (event.message && event.progress > 10 && event.progress < 100) detail.textContent = event.message;
    if (event.ready) {
      events.close();
      window.location.reload();
    }
  };

  // A hub that is restarted closes the stream for good: what became of the start is on the page itself.
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) window.setTimeout(() => window.location.reload(), 5000);
  };

  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    const label = cancel.textContent;
    cancel.textContent = words.cancelling;
    events.close(); // a start that becomes ready just now must not open after it was cancelled
    try {
      const answer = await fetch(page.dataset.serverUrl, {
        method: "DELETE",
        headers: { "X-XSRFToken": window.jhdata.xsrf_token },
      });
      if (!answer.ok) throw new Error(String(answer.status));
      window.location.assign(page.dataset.chooserUrl);
    } catch {
      failure.textContent = words.not_cancelled;
      failure.hidden = false;
      cancel.textContent = label;
      cancel.disabled = false;
    }
  });
})();
