// Light or dark, decided before the first paint: the stored choice, or else what the system asks for.
// A classic script on purpose, since modules run only after the page has been drawn.

(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const read = () => {
    try {
      return localStorage.getItem("linnet-theme");
    } catch {
      return null; // storage is off
    }
  };
  const apply = () => {
    document.documentElement.dataset.theme = read() ?? (system.matches ? "dark" : "light");
    document.dispatchEvent(new Event("themechange"));
  };
  system.addEventListener("change", apply);
  window.switchTheme = () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("linnet-theme", theme);
    } catch {
      // the choice then lasts until the page is left
    }
    document.documentElement.dataset.theme = theme;
    document.dispatchEvent(new Event("themechange"));
  };
  apply();
})();
