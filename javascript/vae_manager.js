// What Gradio cannot do for the panel: follow the checkpoint, and complete `<vae:` in the prompts.
// Every host's page differs a little, so each part looks for what it needs, and does nothing where that is absent.

(() => {
    "use strict";

    const TABS = ["txt2img", "img2img"];
    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (selector) => root().querySelector(selector);

    // --- the line follows the checkpoint

    // Forge's list has a class alone
    const CHECKPOINT = "#setting_sd_model_checkpoint, #quicksettings .model_selection";

    const checkpointNow = () => {
        const box = find(`:is(${CHECKPOINT}) :is(input, select)`);
        const loaded = typeof opts === "object" && opts ? opts.sd_checkpoint_hash || "" : "";
        return box ? `${box.value}\n${loaded}` : null;
    };

    let seen = null;

    const press = (name, tabs = TABS) => {
        for (const tab of tabs) {
            const button = find(`#vae_manager_${tab}_${name}`);
            if (button) {
                button.click();
            }
        }
    };

    const follow = () => {
        const now = checkpointNow();
        if (now === null || now === seen) {
            return;
        }
        const first = seen === null;
        seen = now;
        if (first) {
            return; // with the page, the line is new anyway
        }
        press("follow");
        setTimeout(press, 1500, "follow"); // the host may not have obeyed the page yet
    };

    // --- the lists get their files with the page: Gradio has their choices before, when there may be no model yet

    let listed = false;

    const bringFiles = () => {
        if (!listed && TABS.some((tab) => find(`#vae_manager_${tab}_names [data-vaes]`))) {
            listed = true; // Gradio has filled one of our parts, so it listens to our buttons too
            press("files");
        }
    };

    // --- the line about the last picture: the host writes one of its own after each job

    const logs = new Map();

    const made = () => {
        for (const tab of TABS) {
            const log = find(`#html_log_${tab} .prose`) ?? find(`#html_log_${tab}`);
            const now = log ? log.textContent : null;
            if (now !== null && logs.has(tab) && logs.get(tab) !== now) {
                press("made", [tab]);
            }
            logs.set(tab, now ?? logs.get(tab));
        }
    };

    // --- what the small buttons are for: Gradio 3.41 has no words for it

    const TITLES = {
        refresh: "Look at the folders again: VAEs, and what the checkpoint gets",
        star: "Save these settings for this checkpoint, or forget what is saved",
    };

    const title = () => {
        for (const tab of TABS) {
            for (const [button, words] of Object.entries(TITLES)) {
                const element = find(`#vae_manager_${tab}_${button}`);
                if (element && !element.title) {
                    element.title = words;
                    element.setAttribute("aria-label", words);
                }
            }
        }
    };

    // Gradio 3.41 leaves the numbers of its sliders without a name
    const nameNumbers = () => {
        for (const tab of TABS) {
            for (const box of root().querySelectorAll(`#vae_manager_${tab} input[type=number]:not([aria-label])`)) {
                const label = box.closest('[id^="vae_manager_"]').querySelector("label");
                if (label && label.textContent.trim()) {
                    box.setAttribute("aria-label", label.textContent.trim());
                }
            }
        }
    };

    // --- lists and cards tell what fits: Gradio's lists and the WebUI's cards have no place for it

    const LISTS = TABS.map((tab) => `#vae_manager_${tab} ul.options li, #${tab}_vae_cards .card`).join();

    const mark = () => {
        const shown = root().querySelectorAll(LISTS);
        if (shown.length === 0) {
            return;
        }
        const known = new Map(vaes().map((vae) => [vae.name, vae]));
        for (const element of shown) {
            const name = element.dataset.name ?? element.getAttribute("aria-label") ?? element.textContent.trim();
            const vae = known.get(name);
            element.classList.toggle("vae-manager-unfit", Boolean(vae && vae.against));
            const title = vae ? vae.against || vae.words : "";
            if (element.dataset.vaeTitle !== title) { // what it shows may be in the page's language by now
                element.dataset.vaeTitle = title;
                element.title = title;
            }
        }
    };

    // --- completion

    const OPEN = /<vae:([^<>\n]*)$/i;
    let list = null; // what is open: {box, element, names, at}

    const vaes = () => {
        for (const tab of TABS) {
            const held = find(`#vae_manager_${tab}_names [data-vaes]`);
            if (held) {
                try {
                    return JSON.parse(held.dataset.vaes).map(([name, words, against]) => ({name, words, against}));
                } catch {
                    return [];
                }
            }
        }
        return [];
    };

    const otherIsOpen = () =>
        [...document.querySelectorAll(".autocompleteResults")].some((each) => each.offsetParent !== null);

    const close = () => {
        if (list) {
            list.element.remove();
            list.box.removeAttribute("aria-activedescendant");
            list = null;
        }
    };

    const point = (at) => {
        const items = [...list.element.children];
        list.at = (at + items.length) % items.length;
        items.forEach((item, index) => item.setAttribute("aria-selected", String(index === list.at)));
        items[list.at].scrollIntoView({block: "nearest"});
        list.box.setAttribute("aria-activedescendant", items[list.at].id);
    };

    const take = (name) => {
        const box = list.box;
        const before = box.value.slice(0, box.selectionStart).replace(OPEN, `<vae:${name.replaceAll(">", "\\>")}>`);
        const rest = box.value.slice(box.selectionStart).replace(/^[^<>\n,]*>/, "");
        close();
        box.value = before + rest;
        box.selectionStart = box.selectionEnd = before.length;
        // Gradio listens to the event, not to the value
        box.dispatchEvent(new Event("input", {bubbles: true}));
    };

    const show = (box) => {
        close();
        const typed = OPEN.exec(box.value.slice(0, box.selectionStart));
        if (!typed || box.selectionStart !== box.selectionEnd || otherIsOpen()) {
            return;
        }
        const wanted = typed[1].toLowerCase();
        const fits = ({name, words}) => `${name} ${words}`.toLowerCase().includes(wanted);
        const found = vaes().filter(fits).slice(0, 20);
        if (found.length === 0) {
            return;
        }
        const element = document.createElement("ul");
        element.className = "vae-manager-names";
        element.setAttribute("role", "listbox");
        element.setAttribute("aria-label", "VAEs");
        found.forEach(({name, words, against}, index) => {
            const item = document.createElement("li");
            item.id = `vae-manager-name-${index}`;
            item.setAttribute("role", "option");
            item.textContent = name; // never markup
            item.title = against || words;
            item.classList.toggle("vae-manager-unfit", Boolean(against));
            item.addEventListener("mousedown", (event) => {
                event.preventDefault(); // the box keeps the focus
                take(name);
            });
            element.append(item);
        });
        const place = box.getBoundingClientRect();
        element.style.left = `${place.left + window.scrollX}px`;
        element.style.top = `${place.bottom + window.scrollY}px`;
        document.body.append(element);
        list = {box, element, names: found.map(({name}) => name), at: 0};
        point(0);
    };

    const keys = (event) => {
        if (!list || event.target !== list.box || event.ctrlKey || event.altKey || event.metaKey) {
            return;
        }
        const does = {
            ArrowDown: () => point(list.at + 1),
            ArrowUp: () => point(list.at - 1),
            Enter: () => take(list.names[list.at]),
            Tab: () => take(list.names[list.at]),
            Escape: close,
        }[event.key];
        if (does) {
            event.preventDefault();
            event.stopImmediatePropagation();
            does();
        }
    };

    const isPrompt = (box) =>
        box instanceof HTMLTextAreaElement && TABS.some((tab) => box.closest(`#${tab}_prompt, #hires_prompt`));

    // --- beginnings

    const start = () => {
        document.addEventListener("input", (event) => {
            if (isPrompt(event.target) && event.isTrusted) {
                show(event.target);
            }
        });
        document.addEventListener("keydown", keys, true);
        document.addEventListener("focusout", close);
        let waiting = 0;
        new MutationObserver(() => {
            if (waiting) {
                return; // and not begun anew: a page that changes all the time, as while a job runs, would never be seen
            }
            waiting = setTimeout(() => {
                waiting = 0;
                title();
                nameNumbers();
                mark();
                follow();
                bringFiles();
                made();
            }, 200);
        }).observe(document.body, {childList: true, subtree: true});
        if (typeof onOptionsChanged === "function") {
            onOptionsChanged(follow); // AUTOMATIC1111 has loaded the checkpoint then
        }
        follow();
        bringFiles();
        made();
    };

    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        start();
    }
})();
