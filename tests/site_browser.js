// What a reader of a page of the web edition would stumble over. site_browser.py calls both functions.

const article = document.querySelector("article") ?? document.querySelector("main");
const all = (selector) => [...article.querySelectorAll(selector)];
const named = (element) => `${element.tagName.toLowerCase()} "${(element.alt ?? element.textContent).trim().replace(/\s+/g, " ").slice(0, 40)}"`;

function content() {
  const found = [];
  all("details").forEach((details) => { details.open = true; });
  for (const details of all("details")) {
    const inside = details.lastElementChild;
    if (inside.tagName === "SUMMARY" || !inside.getBoundingClientRect().height) found.push(`nothing unfolds: ${named(details)}`);
  }
  for (const image of all("img")) {
    if (!image.complete || !image.naturalWidth) found.push(`broken image ${image.getAttribute("src")}`);
    if (!image.alt.trim()) found.push(`no alt text on ${image.getAttribute("src")}`);
  }
  for (const math of all(".math")) {
    if (!math.querySelector("mjx-container") || math.querySelector("mjx-merror, [data-mjx-error]"))
      found.push(`mathematics not rendered: ${named(math)}`);
  }
  for (const part of all("p, li, td, th, dd, h1, h2, h3, summary")) {
    const copy = part.cloneNode(true);
    copy.querySelectorAll("code, pre, mjx-container").forEach((inner) => inner.remove());
    const raw = copy.textContent.match(/\$[^$]+\$|\\(frac|begin|sqrt|sum|text)\b|!?\[[^\]]*\]\([^)]*\)|<!--/);
    if (raw) found.push(`not rendered: ${raw[0]}`);
  }
  return found;
}

function scrolls(element) {
  for (let box = element; box && box !== document.body; box = box.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(box).overflowX) && box.getBoundingClientRect().right <= innerWidth + 1) return true;
  }
  return false;
}

function layout() {
  const found = [];
  if (document.documentElement.scrollWidth > innerWidth + 1) found.push("the page is wider than the window");
  for (const part of all("*")) {
    const box = part.getBoundingClientRect();
    if (box.right > innerWidth + 1 && box.width && !part.closest("mjx-assistive-mml") && !scrolls(part)) found.push(`too wide: ${named(part)}`);
  }
  return found;
}
