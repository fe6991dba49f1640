// Refines pages that work without it: times in the reader's zone, the calculator of the application form,
// one submit a click, and a word to screen readers when the running sessions change.
(() => {
  "use strict";
  const page = (document.documentElement.lang || "en").split("-")[0];
  // The reader's own variety of the page's language, so that days look as they are used to.
  const language = (navigator.languages || []).find((name) => name.split("-")[0] === page) || page;

  const STYLES = {
    datetime: { dateStyle: "medium", timeStyle: "short" },
    date: { dateStyle: "medium" },
    time: { timeStyle: "short" },
    second: { timeStyle: "medium" },
  };

  function localiseTimes(root) {
    for (const element of root.querySelectorAll("time[data-show]")) {
      const instant = new Date(element.dateTime);
      const style = STYLES[element.dataset.show];
      if (!style || Number.isNaN(instant.getTime())) continue;
      element.textContent = new Intl.DateTimeFormat(language, style).format(instant);
    }
  }

  function wireCalculators(root) {
    for (const calculator of root.querySelectorAll("[data-calculator]")) {
      const output = calculator.querySelector("output");
      const button = calculator.querySelector("button");
      const target = document.getElementById(calculator.dataset.calculator);
      const inputs = [...calculator.querySelectorAll("input")];
      const product = () => {
        const factors = inputs.map((input) => Number.parseFloat(input.value));
        if (factors.some((factor) => !Number.isFinite(factor) || factor < 0)) return null;
        return Math.round(factors.reduce((left, right) => left * right, 1) * 100) / 100;
      };
      const show = () => {
        const value = product();
        output.textContent = value === null ? "–" : new Intl.NumberFormat(language).format(value);
        button.disabled = value === null || value <= 0;
      };
      calculator.addEventListener("input", show);
      button.addEventListener("click", () => {
        const value = product();
        if (value === null) return;
        target.value = String(value);
        target.focus();
      });
      show();
    }
  }

  function submitOnce(event) {
    const button = event.target.querySelector("button[data-once]");
    // Disabled after this tick, so that the button's own value is still sent.
    if (button) setTimeout(() => button.setAttribute("disabled", ""), 0);
  }

  function announce() {
    const status = document.getElementById("sessions-status");
    const now = document.getElementById("now");
    if (status && now && status.textContent !== now.dataset.summary) status.textContent = now.dataset.summary;
  }

  // What the reader opened stays open when the part that holds it is fetched again.
  let opened = [];
  function rememberOpened(event) {
    opened = [...event.detail.target.querySelectorAll("details[open][id]")].map((one) => one.id);
  }
  function openAgain() {
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    opened = [];
  }

  function stale(isStale) {
    const notice = document.getElementById("refresh-failed");
    if (notice) notice.hidden = !isStale;
  }

  // While the page is looked at, news come at once; a browser opens only few connections, so hidden pages let theirs go.
  let news = null;
  function followNews() {
    const now = document.getElementById("now");
    const wanted = now !== null && document.visibilityState === "visible";
    if (!wanted && news !== null) {
      news.close();
      news = null;
    } else if (wanted && news === null) {
      news = new EventSource(now.dataset.news);
      news.addEventListener("notice", (event) => {
        const told = document.getElementById("sessions-status");
        if (told) told.textContent = JSON.parse(event.data).message;
        window.htmx?.trigger("#now", "news");
      });
    }
  }

  document.addEventListener("visibilitychange", followNews);
  document.addEventListener("DOMContentLoaded", () => {
    followNews();
    localiseTimes(document);
    wireCalculators(document);
    document.querySelector("[autofocus], .is-invalid")?.focus();
  });
  document.addEventListener("submit", submitOnce);
  // Coming back by the Back button: the browser may show the page as it was left, with its button disabled.
  window.addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll("button[data-once]")) button.removeAttribute("disabled");
  });
  document.addEventListener("htmx:beforeSwap", rememberOpened);
  document.addEventListener("htmx:afterSwap", openAgain);
  document.addEventListener("htmx:afterSettle", (event) => {
    localiseTimes(event.detail.elt.parentElement || document);
    announce();
    stale(false);
  });
  document.addEventListener("htmx:responseError", () => stale(true));
  document.addEventListener("htmx:sendError", () => stale(true));
})();
