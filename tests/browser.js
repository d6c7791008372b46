// What a reader of this page would stumble over, as [cell, problem]. browser.py calls both functions in JupyterLab.

const all = (selector) => [...document.querySelectorAll(`.jp-Notebook ${selector}`)];
const cellOf = (element) => all(".jp-Cell").indexOf(element.closest(".jp-Cell"));
const named = (element) => `${element.tagName.toLowerCase()} "${element.textContent.trim().replace(/\s+/g, " ").slice(0, 40)}"`;
// What JupyterLab writes where the author wrote nothing: in Markdown, and on an output
const NO_ALT = ["", "Image", "No description has been provided for this image"];
const MATH = /\$[^$]*\$?|\\(frac|begin|sqrt|sum|text)\b/;

function rawMath(cell) {
  const copy = cell.cloneNode(true);
  copy.querySelectorAll("code, pre, mjx-container").forEach((part) => part.remove());
  return copy.textContent.match(MATH)?.[0];
}

function brokenContent() {
  const found = [];
  for (const image of all("img")) {
    const source = image.getAttribute("src").split("?")[0].slice(-60);
    if (!image.naturalWidth) found.push([cellOf(image), `broken image ${source}`]);
    // A plot under a slider can't carry alt text; the static figure beside it does.
    if (NO_ALT.includes(image.alt.trim()) && !image.closest(".jupyter-widgets"))
      found.push([cellOf(image), `no alt text on ${source}`]);
  }
  for (const cell of all(".jp-RenderedMarkdown")) {
    if (rawMath(cell)) found.push([cellOf(cell), `mathematics not rendered: ${rawMath(cell)}`]);
  }
  // MathJax prints a command that it does not know in red.
  for (const error of all("mjx-merror, mjx-container [style*='color: red']"))
    found.push([cellOf(error), `mathematics not understood: ${error.textContent}`]);
  // tqdm turns its bar red where a loop didn't end by itself: that's right only where it was interrupted.
  for (const bar of all(".progress-bar-danger")) {
    if (!bar.closest(".jp-Cell").textContent.includes("KeyboardInterrupt"))
      found.push([cellOf(bar), "a progress bar is red"]);
  }
  for (const link of all(".jp-RenderedMarkdown a[href^='#']:not(.jp-InternalAnchorLink)")) {
    const id = CSS.escape(decodeURIComponent(link.hash.slice(1)));
    if (!document.querySelector(`[id="${id}"], [data-jupyter-id="${id}"]`))
      found.push([cellOf(link), `no heading for ${link.hash}`]);
  }
  return found;
}

function badLayout() {
  const found = [];
  for (const cell of all(".jp-RenderedMarkdown")) {
    const right = cell.getBoundingClientRect().right + 1;
    for (const part of cell.querySelectorAll("p, li, h1, h2, h3, h4, table, img, mjx-math")) {
      if (part.getBoundingClientRect().right > right) found.push([cellOf(part), `too wide: ${named(part)}`]);
    }
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (text.parentElement.closest("pre, mjx-container")) continue;
      for (const word of text.data.matchAll(/[\p{L}\p{N}_]+/gu)) {
        const range = document.createRange();
        range.setStart(text, word.index);
        range.setEnd(text, word.index + word[0].length);
        const boxes = [...range.getClientRects()];
        if (boxes.some((box) => box.right > right) && !text.parentElement.closest("table"))
          found.push([cellOf(text.parentElement), `too wide: ${word[0]}`]);
        if (new Set(boxes.map((box) => Math.round(box.top))).size > 1) found.push([cellOf(text.parentElement), `broken across lines: ${word[0]}`]);
      }
    }
  }
  for (const output of all(".jp-OutputArea-output")) {
    for (const box of [output, ...output.querySelectorAll("pre")]) {
      if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1)
        found.push([cellOf(box), `output is cut off: ${named(box)}`]);
    }
  }
  return found;
}
