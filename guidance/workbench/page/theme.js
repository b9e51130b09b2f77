// Light or dark: as the system has it, until the button says otherwise. Every page of the house has the button.

const dark = matchMedia("(prefers-color-scheme: dark)");
const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));
const isDark = () => (document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : dark.matches);

function showTheme(theme) {
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  press(byId("theme"), isDark());
}

showTheme(memory.read("shelllcc theme"));
dark.addEventListener("change", () => showTheme(null));
byId("theme").addEventListener("click", () => {
  showTheme(isDark() ? "light" : "dark");
  memory.write("shelllcc theme", isDark() ? "dark" : "light");
});
