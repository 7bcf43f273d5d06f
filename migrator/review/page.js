// SPDX-License-Identifier: Apache-2.0
// The page is complete without this: it adds the filter, the keys, and what the reader marks.
"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const files = all("article.file");
  const notes = all(".note");
  const query = one("#query");
  const rule = one("#rule");
  const kinds = all('input[name="kind"]');

  // A page in a sandbox has no storage; then nothing is remembered.
  const store = {
    get(key) { try { return localStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, value); } catch { /* not remembered */ } },
  };
  const page = `vllm-npu-migrate:${root.dataset.page}`;

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

  // ---- what was viewed
  const seen = new Set((store.get(page) || "").split("\n").filter(Boolean));
  const entry = new Map(all("[data-file]").map((item) => [item.dataset.file, item]));
  const showSeen = (file) => {
    const on = seen.has(file.dataset.path);
    file.classList.toggle("seen", on);
    entry.get(file.id)?.classList.toggle("seen", on);
    one(".viewed input", file).checked = on;
  };
  const showProgress = () => {
    const count = files.filter((file) => seen.has(file.dataset.path)).length;
    one("#progress").textContent = count ? `${count} of ${files.length} viewed` : "";
  };
  const setSeen = (file, on) => {
    if (on) seen.add(file.dataset.path); else seen.delete(file.dataset.path);
    store.set(page, [...seen].join("\n"));
    showSeen(file);
    showProgress();
  };
  for (const file of files) {
    one(".viewed", file).hidden = false;
    one(".viewed input", file).addEventListener("change", (event) => setSeen(file, event.target.checked));
    showSeen(file);
  }
  showProgress();

  // ---- filter
  let texts = null;
  const index = () => {
    // Made when it is first asked for: most readers read first.
    texts ||= all(".hunk").map((hunk) => {
      const file = hunk.closest("article");
      const told = all(".note", hunk).map((note) => note.textContent).join(" ");
      const at = one(".at", hunk)?.textContent || "";
      return {
        hunk,
        file,
        text: `${file.dataset.path} ${at} ${told}`.toLowerCase(),
        rules: (hunk.dataset.rules || "").split(" "),
        kinds: (hunk.dataset.kinds || "").split(" "),
        count: all(".note", hunk).length,
      };
    });
    return texts;
  };
  const apply = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(kinds.filter((box) => box.checked).map((box) => box.value));
    const everything = !words.length && !rule.value && wanted.size === kinds.length;
    const left = new Set();
    let count = 0;
    for (const item of index()) {
      const fits =
        everything ||
        ((!rule.value || item.rules.includes(rule.value)) &&
          (wanted.size === kinds.length || item.kinds.some((kind) => wanted.has(kind))) &&
          words.every((word) => item.text.includes(word)));
      item.hunk.hidden = !fits;
      if (fits) {
        left.add(item.file);
        count += item.count;
      }
    }
    for (const file of files) {
      // A file without a hunk is an empty one, or one that is gone: only its path can fit.
      const bare = !one(".hunk", file) && words.every((word) => file.dataset.path.toLowerCase().includes(word)) && !rule.value;
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
  };
  const clear = () => {
    query.value = "";
    rule.value = "";
    for (const box of kinds) box.checked = true;
    apply();
  };
  const toChanges = () => one("#changes").scrollIntoView();
  query.addEventListener("input", apply);
  rule.addEventListener("change", apply);
  for (const box of kinds) box.addEventListener("change", apply);
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

  // ---- where the reader is
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
    const here = document.activeElement?.closest(".note, article.file");
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
      if (item.matches(".note") && seen.has(file.dataset.path)) file.classList.remove("seen");
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
      setSeen(file, !seen.has(file.dataset.path));
      go(file);
    },
    r: toRule,
    u: toggleView,
    t: toggleTheme,
    "/": () => query.focus(),
    "?": () => keys.showModal(),
    Escape: clear,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
    const typing = event.target.matches?.("input[type=search], select, textarea");
    if (typing && event.key !== "Escape") return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    if (typing) event.target.blur();
    action();
  });

  addEventListener("beforeprint", () => { for (const item of all("details.rule")) item.open = true; });
  root.dataset.ready = "true";
  performance.mark("review:ready");
})();
