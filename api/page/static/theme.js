// Sets the chosen theme before the first paint; a plain script, since a module would run too late.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem('spectrain-theme'); } catch { /* no storage: the system's */ }
  if (chosen) document.documentElement.dataset.theme = chosen;
})();
