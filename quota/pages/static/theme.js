// Sets light or dark before the first paint; loaded in <head> without defer so that nothing flashes.
// The hub's pages keep the choice under the same name: one choice holds for the whole portal.
(() => {
  "use strict";
  const KEY = "jupyterhub-bs-theme";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const stored = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };

  const show = () => {
    const choice = stored();
    const theme = choice === "light" || choice === "dark" ? choice : dark.matches ? "dark" : "light";
    document.documentElement.setAttribute("data-bs-theme", theme);
    const toggle = document.getElementById("theme-toggle");
    if (toggle) toggle.setAttribute("aria-pressed", String(theme === "dark"));
  };

  show();
  dark.addEventListener("change", show);
  document.documentElement.classList.add("js");

  document.addEventListener("DOMContentLoaded", () => {
    show();
    const toggle = document.getElementById("theme-toggle");
    if (!toggle) return;
    toggle.addEventListener("click", () => {
      const next = document.documentElement.getAttribute("data-bs-theme") === "dark" ? "light" : "dark";
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // Storage is off: the choice holds for this page.
        document.documentElement.setAttribute("data-bs-theme", next);
        return;
      }
      show();
    });
  });
})();
