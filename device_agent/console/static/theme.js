// Light or dark: as the system says, until the visitor chooses. Runs before the page is drawn, so nothing flashes.
"use strict";
(() => {
  const key = "offramp-theme";
  const root = document.documentElement;
  let chosen = null;
  try { chosen = localStorage.getItem(key); } catch { /* storage may be refused; then the system decides */ }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { root.dataset.theme = chosen ?? (dark.matches ? "dark" : "light"); };
  apply();
  const tell = () => { apply(); dispatchEvent(new Event("themechange")); };
  dark.addEventListener("change", tell);
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      chosen = root.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem(key, chosen); } catch { /* as above */ }
      tell();
    });
  });
})();
