// SPDX-License-Identifier: Apache-2.0
// The page is complete without this: it adds the filter, the keys, and what the reader marks.
"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  let files = all("article.file");
  let notes = all(".note");
  const query = one("#query");
  const rule = one("#rule");
  const kinds = all('input[name="kind"]');
  const order = one("#order");
  const marked = one("#marked");
  const space = one("#space");

  // A page in a sandbox has no storage; then nothing is remembered.
  const store = {
    get(key) { try { return localStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, value); } catch { /* not remembered */ } },
  };
  const page = `vllm-npu-migrate:marks:${root.dataset.subject}`;

  // ---- theme and view
  const setTheme = (theme) => { if (theme) root.dataset.theme = theme; };
  const toggleTheme = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
    store.set("vllm-npu-migrate:theme", root.dataset.theme);
  };
  const setUnified = (on) => {
    root.classList.toggle("unified", on);
    one("#view").textContent = on ? "Split" : "Unified";
  };
  const toggleView = () => {
    const on = !root.classList.contains("unified");
    setUnified(on);
    store.set("vllm-npu-migrate:unified", on ? "1" : "");
  };
  setTheme(store.get("vllm-npu-migrate:theme"));
  setUnified(store.get("vllm-npu-migrate:unified") === "1");
  one("#theme").addEventListener("click", toggleTheme);
  one("#view").addEventListener("click", toggleView);
  one(".menu").addEventListener("click", (event) => {
    // Where there is room the list of files stands beside the changes, and is put away.
    if (!matchMedia("(min-width: 901px)").matches) return;
    event.preventDefault();
    root.classList.toggle("alone");
  });

  // ---- what the reader marks: verdicts and notes by anchor, viewed files by path and state.
  // Marks of changes that this page does not have are kept: another run may have them again.
  const VERDICTS = ["approve", "question"];
  const readMarks = (text) => {
    const found = JSON.parse(text);
    const result = { marks: {}, viewed: {} };
    for (const [anchor, mark] of Object.entries(found.marks || {})) {
      const verdict = VERDICTS.includes(mark?.verdict) ? mark.verdict : "";
      const note = typeof mark?.note === "string" ? mark.note : "";
      if (verdict || note) result.marks[anchor] = { verdict, note };
    }
    for (const [path, state] of Object.entries(found.viewed || {})) {
      if (typeof state === "string") result.viewed[path] = state;
    }
    return result;
  };
  const kept = () => {
    try { return readMarks(store.get(page) || "{}"); } catch { return { marks: {}, viewed: {} }; }
  };
  let { marks, viewed } = kept();
  const keep = () => store.set(page, JSON.stringify({ marks, viewed }));
  const markOf = (note) => marks[note.id] || { verdict: "", note: "" };
  const isSeen = (file) => viewed[file.dataset.path] === file.dataset.state;
  const entry = new Map(all("[data-file]").map((item) => [item.dataset.file, item]));

  const showSeen = (file) => {
    const on = isSeen(file);
    file.classList.toggle("seen", on);
    entry.get(file.id)?.classList.toggle("seen", on);
    one(".viewed input", file).checked = on;
  };
  const showMark = (note) => {
    const mark = markOf(note);
    note.dataset.verdict = mark.verdict;
    for (const button of all("[data-verdict]", note)) {
      button.setAttribute("aria-pressed", String(button.dataset.verdict === mark.verdict));
    }
    const text = one("textarea", note);
    if (text.value !== mark.note) text.value = mark.note;
    if (mark.note) showText(note, true);
  };
  const showText = (note, on) => {
    one("textarea", note).hidden = !on;
    one(".write", note).setAttribute("aria-expanded", String(on));
  };
  const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const tally = () => {
    const given = notes.map(markOf);
    return {
      approved: given.filter((mark) => mark.verdict === "approve").length,
      questions: given.filter((mark) => mark.verdict === "question").length,
      notes: given.filter((mark) => mark.note).length,
      viewed: files.filter(isSeen).length,
    };
  };
  const progress = () => {
    const { approved, questions, notes: written, viewed: seen } = tally();
    return `${approved} of ${counted(notes.length, "change")} approved, ${counted(questions, "question")}, ` +
      `${counted(written, "note")}; ${seen} of ${counted(files.length, "file")} viewed`;
  };
  const showProgress = () => {
    const { approved, questions, viewed: seen } = tally();
    one("#progress").textContent = progress();
    const parts = [];
    if (seen) parts.push(`${seen} of ${files.length} viewed`);
    if (approved) parts.push(`${approved} of ${notes.length} approved`);
    if (questions) parts.push(counted(questions, "question"));
    one("#marks").textContent = parts.join(", ") || "Review";
  };
  const setSeen = (file, on) => {
    if (on) viewed[file.dataset.path] = file.dataset.state; else delete viewed[file.dataset.path];
    keep();
    showSeen(file);
    showProgress();
  };
  const setMark = (note, change) => {
    const mark = { ...markOf(note), ...change };
    if (mark.verdict || mark.note) marks[note.id] = mark; else delete marks[note.id];
    keep();
    showMark(note);
    showProgress();
  };
  const toggleVerdict = (note, verdict) => {
    if (note) setMark(note, { verdict: markOf(note).verdict === verdict ? "" : verdict });
  };
  const write = (note) => {
    if (!note) return;
    showText(note, true);
    one("textarea", note).focus();
  };
  const showMarks = () => {
    for (const file of files) showSeen(file);
    for (const note of notes) showMark(note);
    showProgress();
  };
  for (const file of files) {
    one(".viewed", file).hidden = false;
    one(".viewed input", file).addEventListener("change", (event) => setSeen(file, event.target.checked));
  }
  for (const note of notes) {
    note.append(one("#mark").content.cloneNode(true));
    one("textarea", note).setAttribute("aria-label", `Note on ${one(".tag", note).textContent} in ${note.closest("article").dataset.path}`);
    for (const button of all("[data-verdict]", note)) {
      button.addEventListener("click", () => toggleVerdict(note, button.dataset.verdict));
    }
    one(".write", note).addEventListener("click", () => {
      if (one("textarea", note).hidden) write(note); else if (!markOf(note).note) showText(note, false);
    });
    one("textarea", note).addEventListener("input", (event) => setMark(note, { note: event.target.value }));
  }
  showMarks();

  // ---- marks as text: for people, for GitHub, and for this page again
  const told = (note) => {
    const [side, first, last] = note.dataset.lines.split(" ");
    const site = one("p b", note)?.textContent || "";
    const reason = one("p", note).textContent.slice(site.length).trim();
    const path = note.closest("article").dataset.path;
    return { rule: one(".tag", note).textContent, path, side, first: Number(first), last: Number(last), site, reason, mark: markOf(note) };
  };
  const plain = (text) => text.replace(/[\\`*_{}[\]<>#|~]/g, "\\$&");
  const embedded = () => {
    // Nothing in it may end the comment that it stands in; the script may not begin one itself.
    const text = JSON.stringify({ version: 1, label: root.dataset.label, marks, viewed });
    return `<\u0021-- npu-migrate:marks ${text.replaceAll("-", "\\u002d").replaceAll(">", "\\u003e")} -->`;
  };
  const line = ({ rule, path, first, site, reason }) => `\`${path}:${first}\` **${rule}** ${site ? `\`${site}\` ` : ""}${plain(reason)}`;
  const quoted = (text) => text.split("\n").map((part) => `  > ${part}`).join("\n");
  const asMarkdown = () => {
    const changes = notes.map(told);
    const parts = [`# Review: ${root.dataset.label} on Ascend NPUs`, `${progress()}.`];
    const list = (title, box, wanted) => {
      const items = changes.filter(wanted).map((change) => {
        const note = change.mark.note ? `\n\n${quoted(change.mark.note)}\n` : "";
        return `- [${box}] ${line(change)}${note}`;
      });
      if (items.length) parts.push(`## ${title}`, items.join("\n"));
    };
    list("Questions", " ", ({ mark }) => mark.verdict === "question");
    list("Notes", " ", ({ mark }) => !mark.verdict && mark.note);
    list("Approved", "x", ({ mark }) => mark.verdict === "approve");
    return `${parts.join("\n\n")}\n\n${embedded()}\n`;
  };
  const asGithub = () => {
    const { approved, questions } = tally();
    const comments = notes.map(told).filter(({ mark }) => mark.note || mark.verdict === "question").map((change) => {
      const { path, side, first, last, mark } = change;
      const asked = mark.verdict === "question" ? "Question" : mark.verdict === "approve" ? "Approved" : "Note";
      const body = `**${asked}** on ${change.rule}${change.site ? ` \`${change.site}\`` : ""}: ${plain(change.reason)}${mark.note ? `\n\n${mark.note}` : ""}`;
      return { path, side, line: last, ...(last > first && { start_line: first, start_side: side }), body };
    });
    const event = notes.length && approved === notes.length && !questions ? "APPROVE" : "COMMENT";
    return `${JSON.stringify({ event, body: `${root.dataset.label} on Ascend NPUs: ${progress()}.\n\n${embedded()}`, comments }, null, 2)}\n`;
  };
  const takeIn = (text) => {
    let body = text;
    try { body = JSON.parse(text).body || text; } catch { /* it is Markdown */ }
    const found = /<\u0021-- npu-migrate:marks (\{.*\}) -->/.exec(body);
    if (!found) return "That file holds no marks that this page saved.";
    let read;
    try { read = readMarks(found[1]); } catch { return "The marks in that file cannot be read."; }
    marks = { ...marks, ...read.marks };
    viewed = { ...viewed, ...read.viewed };
    keep();
    showMarks();
    apply();
    const here = new Set(notes.map((note) => note.id));
    const count = Object.keys(read.marks).length;
    const fit = Object.keys(read.marks).filter((anchor) => here.has(anchor)).length;
    return `${counted(count, "mark")} taken in; ${count - fit} of changes that are not on this page.`;
  };
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    one("#told").textContent = `Saved as ${name}.`;
  };
  const dialog = one("#marks-dialog");
  one("#marks").addEventListener("click", () => { one("#told").textContent = ""; dialog.showModal(); });
  one("#save-markdown").addEventListener("click", () => save("review.md", "text/markdown", asMarkdown()));
  one("#save-github").addEventListener("click", () => save("review.json", "application/json", asGithub()));
  one("#take").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) one("#told").textContent = takeIn(await file.text());
    event.target.value = "";
  });
  one("#forget").addEventListener("click", () => {
    if (!confirm("Forget every approval, question, note and viewed file of this release?")) return;
    marks = {};
    viewed = {};
    keep();
    for (const note of notes) showText(note, false);
    showMarks();
    apply();
  });

  // ---- a hunk as a patch
  const rawText = (element) => [...element.childNodes].map((node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (!node.matches(".odd")) return rawText(node);
    return node.textContent.startsWith("U+") ? String.fromCodePoint(parseInt(node.textContent.slice(2), 16)) : "";
  }).join("");
  const asPatch = (hunk) => {
    const { path } = hunk.closest("article").dataset;
    const end = hunk.dataset.windows ? "\r\n" : "\n";
    const isNew = hunk.dataset.new;
    const lines = all(":scope > .code > .n, :scope > .code > del", hunk).map((row) => {
      const sign = row.matches("del") ? "-" : row.matches("ins") ? "+" : " ";
      const open = all(".odd", row).some((odd) => odd.textContent === "no end");
      return `${sign}${rawText(row)}${open ? "\n\\ No newline at end of file\n" : end}`;
    });
    const names = isNew ? ["new file mode 100644\n", "/dev/null"] : ["", `a/${path}`];
    return `diff --git a/${path} b/${path}\n${names[0]}--- ${names[1]}\n+++ b/${path}\n@@ ${hunk.dataset.range} @@\n${lines.join("")}`;
  };
  for (const hunk of all(".hunk[data-range]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy as patch";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(asPatch(hunk));
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not copied";
      }
      setTimeout(() => { button.textContent = "Copy as patch"; }, 1500);
    });
    (one(".at", hunk) || one("header", hunk.closest("article"))).append(button);
  }

  // ---- filter
  let texts = null;
  const index = () => {
    // Made when it is first asked for: most readers read first.
    texts ||= all(".hunk").map((hunk) => {
      const file = hunk.closest("article");
      const why = all(".note", hunk).map((note) => `${one(".tag", note).textContent} ${one("p", note).textContent}`).join(" ");
      const code = all(":scope > .code", hunk).map((part) => part.textContent).join(" ");
      const at = one(".at", hunk)?.textContent || "";
      return {
        hunk,
        file,
        text: `${file.dataset.path} ${at} ${why} ${code}`.toLowerCase(),
        rules: (hunk.dataset.rules || "").split(" "),
        kinds: (hunk.dataset.kinds || "").split(" "),
        notes: all(".note", hunk),
      };
    });
    return texts;
  };
  const apply = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(kinds.filter((box) => box.checked).map((box) => box.value));
    const everything = !words.length && !rule.value && !marked.value && !space.checked && wanted.size === kinds.length;
    const left = new Set();
    let count = 0;
    for (const item of index()) {
      const fits =
        everything ||
        ((!rule.value || item.rules.includes(rule.value)) &&
          (wanted.size === kinds.length || item.kinds.some((kind) => wanted.has(kind))) &&
          (!marked.value || item.notes.some((note) => isMarked(note, marked.value))) &&
          !(space.checked && item.hunk.dataset.space) &&
          words.every((word) => item.text.includes(word)));
      item.hunk.hidden = !fits;
      if (fits) {
        left.add(item.file);
        count += item.notes.length;
      }
    }
    for (const file of files) {
      // A file without a hunk is an empty one, or one that is gone: only its path can fit.
      const bare = !one(".hunk", file) && words.every((word) => file.dataset.path.toLowerCase().includes(word)) && !rule.value && !marked.value;
      file.hidden = !(everything || left.has(file) || bare);
      entry.get(file.id).hidden = file.hidden;
    }
    for (const item of all(".rule[data-safety]")) {
      item.hidden = !everything && ((rule.value && item.id !== rule.value) || !wanted.has(item.dataset.safety));
    }
    const total = notes.length;
    one("#shown").textContent = everything ? `${total} change${total === 1 ? "" : "s"}` : `${count} of ${total}`;
    one("#clear").hidden = everything;
    one("#nothing").hidden = !files.length || files.some((file) => !file.hidden);
    root.classList.toggle("filtered", Boolean(words.length || rule.value || marked.value || wanted.size < kinds.length));
    root.classList.toggle("nospace", space.checked);
    remember(wanted);
  };
  const isMarked = (note, wanted) => {
    const mark = markOf(note);
    if (wanted === "none") return !mark.verdict && !mark.note;
    return wanted === "note" ? Boolean(mark.note) : mark.verdict === wanted;
  };

  // ---- what is shown is in the address, so that a link leads to the same
  const remember = (wanted) => {
    const state = new URLSearchParams();
    if (query.value) state.set("q", query.value);
    if (rule.value) state.set("rule", rule.value);
    if (wanted.size < kinds.length) state.set("kinds", [...wanted].join(" "));
    if (marked.value) state.set("marks", marked.value);
    if (order.value) state.set("order", order.value);
    if (space.checked) state.set("space", "1");
    const text = state.toString();
    // Where a page has no address of its own, as in a sandbox, there is nothing to remember it in.
    try { history.replaceState(null, "", `${location.pathname}${text ? `?${text}` : ""}${location.hash}`); } catch { /* as it was */ }
  };
  const recall = () => {
    const state = new URLSearchParams(location.search);
    query.value = state.get("q") || "";
    for (const [field, name] of [[rule, "rule"], [marked, "marks"], [order, "order"]]) {
      field.value = state.get(name) || "";
      // A rule that this page does not have would hide everything.
      if (field.selectedIndex < 0) field.value = "";
    }
    if (state.has("kinds")) {
      const wanted = state.get("kinds").split(" ");
      for (const box of kinds) box.checked = wanted.includes(box.value);
    }
    space.checked = state.get("space") === "1";
  };
  const sort = () => {
    const by = (file) => (order.value ? Number(file.dataset.number) : risk.get(file));
    files = [...files].sort((one, other) => by(one) - by(other));
    one("#changes").append(...files);
    notes = files.flatMap((file) => all(".note", file));
  };
  const risk = new Map(files.map((file, index) => [file, index]));
  const clear = () => {
    query.value = "";
    rule.value = "";
    marked.value = "";
    space.checked = false;
    for (const box of kinds) box.checked = true;
    apply();
  };
  const toChanges = () => one("#changes").scrollIntoView();
  query.addEventListener("input", apply);
  rule.addEventListener("change", apply);
  for (const box of [...kinds, marked, space]) box.addEventListener("change", apply);
  order.addEventListener("change", () => { sort(); apply(); });
  one("#filter").addEventListener("submit", (event) => { event.preventDefault(); toChanges(); });
  one("#filter").addEventListener("reset", (event) => { event.preventDefault(); clear(); });
  for (const button of all("[data-kind]")) {
    button.addEventListener("click", () => {
      for (const box of kinds) box.checked = box.value === button.dataset.kind;
      apply();
      toChanges();
    });
  }
  for (const button of all("button[data-rule]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      clear();
      rule.value = button.dataset.rule;
      apply();
      toChanges();
    });
  }
  for (const link of all("#map a[data-path]")) {
    if (!link.dataset.path) continue;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      query.value = `${link.dataset.path}/`;
      apply();
      toChanges();
    });
  }
  one("#filter").hidden = false;
  one("#tools").hidden = false;
  one("#options").hidden = !files.length;
  recall();
  if (order.value) sort();
  if (location.search) apply();

  // ---- where the reader is
  const focused = (selector) => document.activeElement?.closest(selector);
  const visible = (item) => !item.closest("[hidden]") && !item.closest(".seen");
  const bar = () => (getComputedStyle(one(".bar")).position === "sticky" ? one(".bar").offsetHeight : 0);
  const go = (item) => {
    if (!item) return;
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "start" });
    // What was not laid out before it came into sight may have another height than was thought.
    requestAnimationFrame(() => item.scrollIntoView({ block: "start" }));
  };
  // The next one is that after the one in focus; where the reader scrolled away, that in sight.
  const step = (items, way, margin) => {
    const shown = items.filter(visible);
    const here = focused(".note") || focused("article.file");
    const from = shown.indexOf(here);
    if (from >= 0) {
      const box = here.getBoundingClientRect();
      if (box.bottom > 0 && box.top < innerHeight) return go(shown[from + way]);
    }
    return go(near(shown, way, bar() + margin));
  };
  // To ask a change where it is has the browser lay out its file: so the files are asked first.
  const near = (items, way, line) => {
    const boxes = new Map();
    const box = (file) => {
      if (!boxes.has(file)) boxes.set(file, file.getBoundingClientRect());
      return boxes.get(file);
    };
    const below = (item) => {
      const { top, bottom } = box(item.closest("article"));
      if (top > line + 4) return true;
      if (bottom < line) return false;
      return item.getBoundingClientRect().top > line + 4;
    };
    if (way > 0) return items.find(below);
    return items.findLast((item) => {
      const { top, bottom } = box(item.closest("article"));
      if (bottom < line) return true;
      if (top > line) return false;
      return item.getBoundingClientRect().top < line - 4;
    });
  };
  const current = () => {
    const here = document.activeElement?.closest("article.file");
    if (here) return here;
    const line = bar() + 60;
    return files.filter((file) => !file.hidden).findLast((file) => file.getBoundingClientRect().top < line);
  };
  let back = null;
  const toRule = () => {
    const here = document.activeElement;
    if (here?.closest(".rule") && back) {
      go(back);
      back = null;
      return;
    }
    const note = here?.closest(".note");
    if (!note) return;
    back = note;
    open(one(".tag", note).hash.slice(1));
  };
  const open = (id) => {
    const item = id && document.getElementById(id);
    if (!item) return;
    if (item.matches("details")) {
      item.hidden = false;
      item.open = true;
      item.scrollIntoView({ block: "start" });
      one("summary", item).focus({ preventScroll: true });
    } else if (item.matches(".note, .file")) {
      // A link leads to what the filter or the reader had put away: show it.
      const file = item.closest("article");
      if (item.closest("[hidden]")) clear();
      if (item.matches(".note") && isSeen(file)) file.classList.remove("seen");
      go(item);
    }
  };
  addEventListener("hashchange", () => open(decodeURIComponent(location.hash.slice(1))));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link) return;
    if (link.closest("#files")) one("#files").hidePopover?.();
    // The same link a second time is no change of the address.
    if (link.hash === location.hash) open(decodeURIComponent(link.hash.slice(1)));
  });
  if (location.hash) open(decodeURIComponent(location.hash.slice(1)));

  // ---- mark in the list of files the one that is in sight
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const link = one("a", entry.get(target.id));
      if (isIntersecting) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const file of files) watcher.observe(file);

  // ---- keys
  const keys = one("#keys");
  one("#help").addEventListener("click", () => keys.showModal());
  const actions = {
    j: () => step(notes, 1, 72),
    k: () => step(notes, -1, 72),
    n: () => step(files, 1, 10),
    p: () => step(files, -1, 10),
    v: () => {
      const file = current();
      if (!file) return;
      setSeen(file, !isSeen(file));
      go(file);
    },
    a: () => toggleVerdict(focused(".note"), "approve"),
    q: () => toggleVerdict(focused(".note"), "question"),
    c: () => write(focused(".note")),
    r: toRule,
    w: () => { space.checked = !space.checked; apply(); },
    u: toggleView,
    t: toggleTheme,
    "/": () => query.focus(),
    "?": () => keys.showModal(),
    Escape: clear,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
    if (dialog.open) return;
    const typing = event.target.matches?.("input[type=search], select, textarea");
    if (typing && event.key !== "Escape") return;
    if (event.target.matches?.("textarea")) {
      event.target.closest(".note").focus();
      return;
    }
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    if (typing) event.target.blur();
    action();
  });

  root.dataset.ready = "true";
  performance.mark("review:ready");
})();
