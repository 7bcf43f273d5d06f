// SPDX-License-Identifier: Apache-2.0
// Browsers refuse a Worker from a page that was opened as a file. There, and only there, the search
// runs in a hidden frame of the same page instead, which takes and sends messages as a worker does.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const base = new URL(url, document.baseURI);
      const inside = frame.contentWindow;
      const deliver = (target, data) => {
        const event = new MessageEvent("message", { data });
        target.dispatchEvent(event);
      };
      inside.postMessage = (data) => setTimeout(() => {
        deliver(this, data);
        this.onmessage?.(new MessageEvent("message", { data }));
      });
      inside.importScripts = (...sources) => sources.reduce(
        (before, source) => before.then(() => new Promise((done, failed) => {
          const script = inside.document.createElement("script");
          script.onload = done;
          script.onerror = failed;
          script.src = new URL(source, base);
          inside.document.body.append(script);
        })),
        Promise.resolve(),
      );
      this.inside = inside;
      this.frame = frame;
      this.deliver = deliver;
      this.ready = inside.importScripts(base);
    }

    postMessage(data) {
      this.ready.then(() => this.deliver(this.inside, data));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
