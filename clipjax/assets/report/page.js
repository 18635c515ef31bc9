// Pointing at a dot of a map shows its image, and the same image on every other map.
(() => {
  const sheet = document.getElementById("sheet");
  if (!sheet) return;
  const tile = +sheet.dataset.tile, columns = +sheet.dataset.columns, scale = 2.4;
  const tip = document.createElement("div"), picture = document.createElement("div");
  const words = document.createElement("p");
  tip.className = "tip";
  tip.hidden = true;
  tip.append(picture, words);
  document.body.append(tip);
  picture.style.cssText = `width:${tile * scale}px;height:${tile * scale}px;` +
    `background:url("${sheet.src}") 0 0/${tile * columns * scale}px auto`;
  let shown = null;
  const mark = on => shown !== null &&
    document.querySelectorAll(`[data-i="${shown}"]`).forEach(dot => dot.classList.toggle("on", on));
  const hide = () => { mark(false); shown = null; tip.hidden = true; };
  document.addEventListener("pointerover", event => {
    const dot = event.target.closest && event.target.closest("circle[data-i]");
    if (!dot) return hide();
    const title = dot.querySelector("title");  // the browser's own would hide ours
    if (title) { dot.dataset.words = title.textContent; title.remove(); }
    mark(false);
    shown = dot.dataset.i;
    mark(true);
    picture.style.backgroundPosition =
      `-${shown % columns * tile * scale}px -${Math.floor(shown / columns) * tile * scale}px`;
    words.textContent = dot.dataset.words;
    tip.hidden = false;
    const at = dot.getBoundingClientRect(), box = tip.getBoundingClientRect();
    const left = Math.max(6, Math.min(at.right + 10, document.documentElement.clientWidth - box.width - 6));
    const above = at.top - box.height - 10;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(above > 0 ? above : at.bottom + 10) + scrollY}px`;
  });
  document.addEventListener("scroll", hide, { passive: true });
})();
