"use strict";
(() => {
  const $ = (query, within = document) => within.querySelector(query);
  const $$ = (query, within = document) => [...within.querySelectorAll(query)];
  const sized = bytes => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (bytes >= 1024 && unit < 4) { bytes /= 1024; unit++; }
    return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
  };

  function find(input) {
    const rows = $$(`#${input.dataset.find} tbody tr`);
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    const said = $("output", input.closest("p"));
    said.setAttribute("aria-live", "polite");
    said.textContent = words.length ? `${shown} of ${rows.length}` : "";
  }

  function open(row) {
    const dialog = $("#dialog"), body = $("#dialog-body");
    const heads = $$("thead th", row.closest("table"));
    const title = document.createElement("h2");
    title.id = "dialog-title";
    const [first, second] = row.cells;
    title.textContent = row.id[0] === "b" ? first.textContent : `${second.textContent}, ${first.firstChild.textContent.trim()} UTC`;
    const list = document.createElement("dl");
    heads.forEach((head, at) => {
      const cell = row.cells[at];
      if (!cell.textContent.trim() || (cell === first && row.id[0] === "b")) return;
      const term = document.createElement("dt"), said = document.createElement("dd");
      term.textContent = head.textContent;
      said.textContent = cell.textContent;
      list.append(term, said);
    });
    body.replaceChildren(title, list);
    dialog.showModal();
  }

  function picture() {
    const svg = $("svg.sizes");
    if (!svg) return;
    const points = svg.dataset.points.split(" ").map(each => each.split(",").map(Number));
    const cursor = $(".cursor", svg), reading = $("#reading");
    const since = +svg.dataset.since, until = +svg.dataset.until, box = svg.viewBox.baseVal;
    const read = event => {
      const place = svg.getBoundingClientRect();
      const x = (event.clientX - place.left) / place.width * box.width;
      const found = points.filter(point => point[0] <= x).pop();
      if (!found || x < 64) return;
      const at = new Date(since + (x - 64) / (box.width - 64) * (until - since));
      cursor.setAttribute("d", `M${x.toFixed(1)} 12V${box.height - 28}`);
      reading.textContent = `${at.toISOString().slice(0, 16).replace("T", " ")}: ${sized(found[1])}, ${found[2]} images`;
    };
    svg.addEventListener("pointermove", read);
    svg.addEventListener("pointerleave", () => { cursor.setAttribute("d", "M0 0"); reading.textContent = ""; });
    let wide = 1;
    const zoom = by => {
      wide = Math.min(16, Math.max(1, wide * by));
      const frame = svg.parentElement, middle = (frame.scrollLeft + frame.clientWidth / 2) / frame.scrollWidth;
      svg.style.width = `${wide * 100}%`;
      frame.scrollLeft = middle * frame.scrollWidth - frame.clientWidth / 2;
    };
    for (const button of $$("[data-zoom]")) button.onclick = () => zoom(button.dataset.zoom === "in" ? 2 : 0.5);
    svg.parentElement.addEventListener("keydown", event => {
      if (event.key === "+" || event.key === "-") { event.preventDefault(); zoom(event.key === "+" ? 2 : 0.5); }
    });
  }

  function prepare() {
    for (const hidden of $$(".tools, .find")) hidden.hidden = false;
    for (const input of $$("[data-find]")) input.addEventListener("input", () => find(input));
    picture();
  }

  document.addEventListener("click", event => {
    const link = event.target.closest('a[href^="#d-"],a[href^="#b-"]');
    const row = link && document.getElementById(link.getAttribute("href").slice(1));
    if (row) { event.preventDefault(); open(row); }
  });
  document.addEventListener("keydown", event => {
    const typing = /INPUT|SELECT|TEXTAREA/.test(event.target.tagName);
    const search = $("#search");
    if (event.key === "/" && !typing && search) { event.preventDefault(); search.focus(); }
    if (event.key === "Escape" && event.target.dataset.find) { event.target.value = ""; find(event.target); }
  });
  addEventListener("beforeprint", () => { for (const details of $$("details")) details.open = true; });
  prepare();

  const home = document.body.dataset.live;
  if (home === undefined) return;
  const slider = $("#when"), at = $("#at"), news = $("#news"), now = $("#now");
  const query = new URLSearchParams(location.search);
  let past = Boolean($("#main").dataset.past), coming = 0, asked = 0, waiting = 0;
  async function show(position) {
    const mine = ++asked, main = $("#main");
    main.setAttribute("aria-busy", "true");
    const wanted = new URLSearchParams({home});
    if (query.get("since")) wanted.set("since", query.get("since"));
    if (position !== null) wanted.set("as_of", `@${position}`);
    const finds = $$("[data-find]").map(input => [input.dataset.find, input.value]);
    try {
      const answer = await fetch(`page?${wanted}`, {headers: {Accept: "text/html"}});
      if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
      const text = await answer.text();
      if (mine !== asked) return;
      const parsed = new DOMParser().parseFromString(text, "text/html");
      main.replaceWith(document.adoptNode($("main", parsed)));
      prepare();
      for (const [name, value] of finds) {
        const input = $(`[data-find="${name}"]`);
        if (input && value) { input.value = value; find(input); }
      }
      past = position !== null;
      const seq = +$("#main").dataset.seq;
      if (!past) { slider.max = Math.max(seq, 1); coming = 0; news.textContent = ""; }
      slider.value = seq;
      at.textContent = seq;
    } catch (error) {
      if (mine === asked) { news.textContent = `Not shown: ${error.message}`; main.removeAttribute("aria-busy"); }
    }
  }
  const later = (position, ms) => { clearTimeout(waiting); waiting = setTimeout(() => show(position), ms); };
  slider.addEventListener("input", () => {
    at.textContent = slider.value;
    past = slider.value !== slider.max;
    later(past ? slider.value : null, 150);
  });
  now.addEventListener("click", event => { event.preventDefault(); later(null, 0); });
  $("select", slider.form)?.addEventListener("change", () => slider.form.requestSubmit());
  const events = new EventSource(`events?${new URLSearchParams({home, after: slider.max})}`);
  let due = false;
  events.addEventListener("event", event => {
    coming++;
    slider.max = Math.max(+slider.max, +event.lastEventId);
    news.textContent = coming === 1 ? "1 new event" : `${coming} new events`;
    if (past || due) return;
    due = true;
    setTimeout(() => { due = false; if (!past) show(null); }, 2000);
  });
})();
