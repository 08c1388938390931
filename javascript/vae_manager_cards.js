// A card of the page VAE puts its `<vae:…>` into the prompt, in place of another one, and a second click takes it out.
// The WebUIs would do it by themselves, but take a name for a pattern, and a picture has no use for two VAEs.

(() => {
    "use strict";

    const TAG = /\\?<vae:(?:[^<>\n\\]|\\>|\\(?!>))*>/gi;
    const CALL = /cardClicked\(\s*['"](\w+)['"]\s*,\s*("(?:[^"\\]|\\.)*")/;
    const PAGES = ["txt2img", "img2img"].map((tab) => `#${tab}_vae_cards, #${tab}_vae_tree`).join();

    const plain = (tag) => tag.toLowerCase().replace(/:[+-]?[\d.]+>$/, ">");

    const turned = (prompt, tag) => {
        const tags = (prompt.match(TAG) || []).filter((found) => !found.startsWith("\\"));
        if (tags.length === 0) {
            return prompt ? `${prompt.replace(/\s+$/, "")} ${tag}` : tag;
        }
        const out = tags.some((found) => plain(found) === plain(tag));
        let first = true;
        return prompt.replace(/[ ,]*(\\?<vae:(?:[^<>\n\\]|\\>|\\(?!>))*>)/gi, (whole, found) => {
            if (found.startsWith("\\")) {
                return whole;
            }
            const kept = !out && first;
            first = false;
            return kept ? whole.replace(found, () => tag) : "";
        }).replace(/^[ ,]+/, "");
    };

    const called = (element) => {
        const found = CALL.exec(element.getAttribute("onclick") || "");
        try {
            return found ? {tab: found[1], tag: JSON.parse(found[2])} : null;
        } catch {
            return null;
        }
    };

    document.addEventListener("click", (event) => {
        const element = event.target instanceof Element ? event.target.closest("[onclick]") : null;
        const call = element && element.closest(PAGES) ? called(element) : null;
        const root = typeof gradioApp === "function" ? gradioApp() : document;
        const box = call ? root.querySelector(`#${call.tab}_prompt textarea`) : null;
        if (!box || !/^<vae:/i.test(call.tag)) {
            return; // the WebUI's own way
        }
        event.preventDefault();
        event.stopImmediatePropagation();
        box.value = turned(box.value, call.tag);
        box.dispatchEvent(new Event("input", {bubbles: true})); // Gradio listens to the event, not to the value
    }, true);
})();
