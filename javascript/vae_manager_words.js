// The page's language. The WebUIs translate a text that stands in their catalogue as it is; ours says sentences too,
// with names and numbers in them: their catalogue entries have {0}, {1} … there. The page by itself brings its catalogue.

(() => {
    "use strict";

    const OURS = '[id^="vae_manager_"], .vae-manager-names, [id$="_vae_cards"]';
    const COMMENTS = '[id^="html_log_"] .comments'; // below a picture, with what others say: whole sentences of ours only
    const NOT_OURS = "ul.options, [role=listbox], [data-vae], textarea, script, style"; // names, and what users write
    const NAMED = ["title", "aria-label", "placeholder"];

    // --- the catalogue

    const LANGUAGES = [
        [/^zh\b.*\b(tw|hk|mo|hant)\b/i, "zh_TW"],
        [/^zh\b/i, "zh_CN"],
        [/^ja\b/i, "ja_JP"],
        [/^ko\b/i, "ko_KR"],
    ];

    const chosen = (all) => {
        for (const wanted of navigator.languages || [navigator.language]) {
            const found = LANGUAGES.find(([pattern]) => pattern.test(wanted));
            if (found || /^en\b/i.test(wanted)) {
                return found ? all[found[1]] : null;
            }
        }
        return null;
    };

    const catalogue = () => {
        if (typeof localization === "object" && localization && Object.keys(localization).length) {
            return localization;
        }
        const held = document.getElementById("vae_manager_words");
        try {
            return held ? chosen(JSON.parse(held.textContent)) : null;
        } catch {
            return null;
        }
    };

    // --- sentences

    let words = null;
    let patterns = [];
    const known = new Map();

    const plain = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

    const learn = (found) => {
        words = found;
        patterns = Object.keys(found).filter((key) => /\{\d\}/.test(key)).map((key) => {
            const parts = key.split(/\{\d\}/);
            const order = [...key.matchAll(/\{(\d)\}/g)].map((match) => Number(match[1]));
            const literal = parts.reduce((one, other) => (other.length > one.length ? other : one));
            return {key, order, literal, pattern: new RegExp(`^${parts.map(plain).join("(.*?)")}$`, "s")};
        });
        patterns.sort((one, other) => other.key.length - one.key.length); // the most particular one first
    };

    const filled = ({key, order, literal, pattern}, text, depth) => {
        const match = text.includes(literal) ? pattern.exec(text) : null;
        if (!match) {
            return null;
        }
        const held = new Map(order.map((place, at) => [place, match[at + 1]]));
        return words[key].replace(/\{(\d)\}/g, (whole, place) => {
            const part = held.get(Number(place)) ?? whole;
            return said(part.trim(), depth + 1) ?? part;
        });
    };

    const turned = (text) => { // a fragment may begin a sentence
        const first = text[0].toLowerCase();
        return (text[0] === first ? text[0].toUpperCase() : first) + text.slice(1);
    };

    const whole = (text, depth) => {
        for (const form of [text, turned(text)]) {
            const found = words[`VAE Manager: ${form}`] ?? words[form]; // single words are ours alone, so named
            if (typeof found === "string") {
                return found;
            }
            if (!form.includes(" ")) {
                continue;
            }
            for (const pattern of patterns) {
                const found = filled(pattern, form, depth);
                if (found !== null) {
                    return found;
                }
            }
        }
        return null;
    };

    const stopped = (found) => found === null ? null : found + (/[\u3040-\u9fff]\W*$/.test(found) ? "。" : ".");

    // Several sentences: the first that is known, and what comes behind it
    const several = (text, depth) => {
        for (const end of text.matchAll(/[.!?] /g)) {
            const first = whole(text.slice(0, end.index + 1), depth) ?? stopped(whole(text.slice(0, end.index), depth));
            if (first !== null) {
                const rest = text.slice(end.index + 2);
                return `${first} ${said(rest, depth + 1) ?? rest}`;
            }
        }
        return null;
    };

    // What is strung together of parts, each of which may be known
    const joined = (text, depth) => {
        for (const mark of [" — ", "; ", ": ", ", "]) {
            const at = text.indexOf(mark);
            if (at === 0) { // the end of a sentence of which the rest is known
                const rest = said(text.slice(mark.length), depth + 1);
                return rest === null ? null : mark + rest;
            }
            if (at > 0) {
                const [left, right] = [text.slice(0, at), text.slice(at + mark.length)];
                const tail = mark.startsWith(" ") ? null : whole(mark + right, depth);
                const [one, other] = [said(left, depth + 1), tail ?? said(right, depth + 1)];
                if (one !== null || other !== null) {
                    return (one ?? left) + (tail === null ? mark : "") + (other ?? right);
                }
            }
        }
        return null;
    };

    const bracketed = (text, depth) => {
        const match = /^(.+?) \((.+)\)$/s.exec(text);
        const [one, other] = match ? [said(match[1], depth + 1), said(match[2], depth + 1)] : [null, null];
        return one === null && other === null ? null : `${one ?? match[1]} (${other ?? match[2]})`;
    };

    const said = (text, depth = 0) => {
        if (!text || depth > 8 || text.length > 1500) {
            return null;
        }
        if (!known.has(text)) {
            const parts = text.split(" · "); // each of which says something by itself
            let found = parts.length > 1 ? parts.map((part) => said(part, depth + 1) ?? part).join(" · ") : null;
            found ??= several(text, depth) ?? whole(text, depth);
            if (found === null && text.includes(" ")) {
                const bare = text.endsWith(".") ? said(text.slice(0, -1), depth + 1) : null;
                found = stopped(bare) ?? joined(text, depth) ?? bracketed(text, depth);
            }
            if (known.size > 20000) {
                known.clear();
            }
            known.set(text, found);
        }
        return known.get(text);
    };

    // --- the page

    const put = (node) => {
        const held = node.parentElement;
        if (!held || held.closest(NOT_OURS) || !held.closest(`${OURS}, ${COMMENTS}`)) {
            return;
        }
        const text = node.nodeValue.trim();
        const found = held.closest(OURS) ? said(text) : text ? whole(text, 0) : null;
        if (found !== null && found !== text) {
            node.nodeValue = node.nodeValue.replace(text, () => found);
        }
    };

    const name = (element) => {
        if (!element.closest(OURS)) {
            return;
        }
        for (const attribute of NAMED) {
            const text = element.getAttribute(attribute);
            const found = text ? said(text.trim()) : null;
            if (found !== null && found !== text) {
                element.setAttribute(attribute, found);
            }
        }
    };

    const holds = (node) => node.closest(`${OURS}, ${COMMENTS}`) || node.querySelector(`${OURS}, ${COMMENTS}`);

    const walk = (node) => {
        if (node.nodeType === Node.TEXT_NODE) {
            put(node);
        } else if (node.nodeType === Node.ELEMENT_NODE && holds(node)) {
            const texts = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
            while (texts.nextNode()) {
                put(texts.currentNode);
            }
            for (const element of [node, ...node.querySelectorAll("[title], [aria-label], [placeholder]")]) {
                name(element);
            }
        }
    };

    const start = () => {
        const found = catalogue();
        if (!found) {
            return; // the page is English
        }
        learn(found);
        new MutationObserver((records) => {
            for (const {type, target, addedNodes} of records) {
                if (type === "childList") {
                    addedNodes.forEach(walk);
                } else if (type === "characterData") {
                    put(target);
                } else {
                    name(target);
                }
            }
        }).observe(document.body, {
            childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: NAMED,
        });
        walk(document.body);
    };

    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        start();
    }
})();
