"""A page as Chromium lays it out, without a driver: a script of ours measures, the DOM tells.

A headless window cannot be narrower than 500 pixels, so that pages are opened in frames.
"""

from __future__ import annotations

import html
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
    "--enable-logging=stderr --dump-dom"
).split()
MEASURE = """
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const box = e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
    const style = (e, what) => frame.contentWindow.getComputedStyle(e)[what];
    const section = page.querySelector("section");
    const dot = page.querySelector("circle[data-i]"), tip = page.querySelector(".tip");
    let pointed = null;
    if (dot) {
      const before = tip.hidden, bubbles = {bubbles: true};
      dot.scrollIntoView();
      dot.dispatchEvent(new frame.contentWindow.PointerEvent("pointerover", bubbles));
      const t = tip.getBoundingClientRect();
      pointed = {
        before, hidden: tip.hidden, words: tip.textContent,
        inside: t.left >= 0 && t.right <= root.clientWidth && t.width > 40,
        image: style(tip.firstChild, "backgroundImage").slice(0, 20),
        marked: page.querySelectorAll(".on").length,
      };
      page.body.dispatchEvent(new frame.contentWindow.PointerEvent("pointerover", bubbles));
      pointed.after = tip.hidden && !page.querySelector(".on");
    }
    found[frame.width] = {
      inner: frame.contentWindow.innerWidth,
      overflow: root.scrollWidth - root.clientWidth,
      sections: [...page.querySelectorAll("section")].map(e => [e.id, ...box(e)]),
      charts: [...page.querySelectorAll("figure > svg")].filter(e => e.checkVisibility()).map(box),
      tracks: [...page.querySelectorAll("svg.track")].map(box),
      pointed,
      broken: [...page.querySelectorAll("details[open] img")].filter(e => !e.naturalWidth).length,
      outside: [...page.querySelectorAll("svg text")].filter(e => e.checkVisibility()).filter(e => {
        const t = e.getBoundingClientRect(), s = e.closest("svg").getBoundingClientRect();
        return t.left < s.left - 12 || t.right > s.right + 12 || t.bottom > s.bottom + 2;
      }).map(e => e.textContent),
      page: style(page.body, "backgroundColor"),
      card: style(section, "backgroundColor"),
      ink: style(page.body, "color"),
      muted: style(page.querySelector(".note"), "color"),
      chart: style(page.querySelector("svg text") || section, "fill"),
    };
  }
  document.body.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = JSON.stringify(found);
});
"""


def executable() -> str | None:
    """A Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def look(text: str, widths: tuple[int, ...], dark: bool) -> tuple[dict, list[str]]:
    """Measures of a page at each width, and what the console said."""
    frames = "".join(
        f'<iframe width="{w}" height="900" srcdoc="{html.escape(text)}"></iframe>' for w in widths
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        harness = pathlib.Path(folder) / "harness.html"
        harness.write_text(
            '<!DOCTYPE html><html><head><meta charset="utf-8">'
            # A frame prefers what its surroundings show.
            '<meta name="color-scheme" content="light dark">'
            f"<script>{MEASURE}</script></head><body>{frames}</body></html>",
            encoding="utf-8",
        )
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        command = [executable(), *OPTIONS, scheme, f"--user-data-dir={folder}/profile"]
        done = subprocess.run(
            [*command, harness.as_uri()], capture_output=True, text=True, timeout=180
        )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(html.unescape(found[1])), said
