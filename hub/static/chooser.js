// The start chooser: keeps applications and runtimes in step with the hardware, and asks for the price of each choice.
// The server decides: this page only shows what the same function said that decides the start.
(() => {
  "use strict";
  const form = document.getElementById("spawn_form");
  if (!form) return;
  const words = JSON.parse(document.getElementById("chooser-words").textContent);
  const at = (id) => document.getElementById(id);
  const start = at("start");
  const shorter = at("start-shorter");
  const runtime = at("runtime_s");
  const application = at("application");
  let asked = 0;
  let waiting = 0;

  const profile = () => form.querySelector("input[name=profile]:checked");
  const show = (element, text) => {
    element.textContent = text;
    element.hidden = !text;
  };

  // A profile has a longest runtime and applications of its own.
  const followProfile = (event) => {
    const { longestS, defaultS, applications } = profile().dataset;
    for (const option of runtime.options) {
      option.disabled = option.hidden = Number(option.value) > Number(longestS);
    }
    if (!runtime.selectedOptions[0] || runtime.selectedOptions[0].disabled) {
      runtime.value = event ? defaultS : longestS;
    }
    const chosen = application.value;
    const offered = applications.split(" ");
    application.replaceChildren(...offered.map((id) => new Option(words.applications[id] || id, id)));
    application.value = offered.includes(chosen) ? chosen : offered[0];
  };

  // Whose money it is, and what is left of it, stands below the list for the one that is chosen.
  const followPayer = () => {
    for (const one of at("left").children) one.hidden = one.dataset.payer !== at("project").value;
  };

  const showQuote = (view) => {
    show(at("quote-text"), view.text);
    at("quote-refusal").hidden = view.can_start;
    at("quote-reason").textContent = view.reason;
    at("quote-next").textContent = view.next;
    show(at("quote-unavailable"), "");
    start.disabled = !view.can_start;
    if (view.can_start) start.removeAttribute("aria-describedby");
    else start.setAttribute("aria-describedby", "quote-reason");
    shorter.hidden = shorter.disabled = !view.fits_runtime_s;
    shorter.value = view.fits_runtime_s;
    shorter.textContent = words.instead.replace("{duration}", view.fits);
  };

  const showUnavailable = (text) => {
    show(at("quote-text"), "");
    at("quote-refusal").hidden = true;
    show(at("quote-unavailable"), text);
    start.disabled = shorter.disabled = shorter.hidden = true;
  };

  const ask = async () => {
    const mine = ++asked;
    const query = new URLSearchParams(new FormData(form));
    try {
      const answer = await fetch(`${form.dataset.quoteUrl}?${query}`, {
        headers: { "X-XSRFToken": window.jhdata.xsrf_token, Accept: "application/json" },
        signal: AbortSignal.timeout(15000),
      });
      const body = await answer.json();
      if (mine !== asked) return; // another choice was made meanwhile
      if (answer.ok) showQuote(body);
      else showUnavailable([body.error.message, body.error.next].filter(Boolean).join(" "));
    } catch {
      if (mine === asked) showUnavailable(words.unavailable);
    }
  };

  form.addEventListener("change", (event) => {
    if (event.target.name === "profile") followProfile(event);
    if (event.target.name === "project") followPayer();
    start.disabled = true; // until the price of this choice is known
    clearTimeout(waiting);
    waiting = setTimeout(ask, 120);
  });

  form.addEventListener("submit", (event) => {
    if (event.submitter && event.submitter.formMethod === "get") return;
    const pressed = event.submitter || start;
    // After the browser has read the form: a disabled button's value would not be sent.
    setTimeout(() => {
      pressed.textContent = words.starting;
      start.disabled = shorter.disabled = true;
    });
  });

  // Coming back with the browser's Back button shows the page as it was left: let it be used again.
  window.addEventListener("pageshow", (event) => event.persisted && window.location.reload());
  followProfile();
  followPayer();
})();
