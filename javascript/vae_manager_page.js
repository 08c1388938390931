// The page VAE Manager: opened when it comes into view for the first time; its library searched and sorted here, without
// asking the server; the handle of two pictures that lie on one another.

(() => {
    "use strict";

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (name) => root().querySelector(`#vae_manager_page_${name}`);

    // --- opening

    const button = (name) => {
        const element = find(name);
        return element && (element.matches("button") ? element : element.querySelector("button"));
    };

    const filled = () => Boolean(find("library") && find("library").querySelector("p"));

    // Gradio may show a button before it listens to it, so what was pressed is pressed again until there is an answer
    const open = (tries) => {
        if (filled() || tries >= 20) {
            return;
        }
        if (button("open")) {
            button("open").click();
        }
        setTimeout(open, Math.min(2000 * (tries + 1), 10000), tries + 1);
    };

    let opened = false;
    const view = new IntersectionObserver((entries) => {
        if (!opened && entries.some((entry) => entry.isIntersecting)) {
            opened = true;
            view.disconnect();
            open(0);
        }
    });

    let watched = null;
    const watch = () => {
        const page = find("root");
        if (page && page !== watched && !opened) {
            watched = page;
            view.disconnect();
            view.observe(page);
        }
    };

    // --- the library

    const rows = () => [...root().querySelectorAll("#vae_manager_page_library tbody tr")];

    const search = () => {
        const box = root().querySelector("#vae_manager_page_search input");
        const words = (box ? box.value : "").toLowerCase().split(/\s+/).filter(Boolean);
        let shown = 0;
        const all = rows();
        for (const row of all) {
            const text = row.textContent.toLowerCase();
            row.hidden = !words.every((word) => text.includes(word));
            shown += row.hidden ? 0 : 1;
        }
        const count = root().querySelector("#vae_manager_page_library .vae-manager-count");
        if (count) {
            count.textContent = shown === all.length ? `${shown} VAEs` : `${shown} of ${all.length} VAEs`;
        }
    };

    const sort = (heading) => {
        const cell = heading.closest("th");
        const up = cell.getAttribute("aria-sort") !== "ascending";
        for (const each of cell.parentElement.children) {
            each.removeAttribute("aria-sort");
        }
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        const at = Number(heading.dataset.sort);
        const key = (row) => {
            const {value} = row.children[at].dataset;
            return value === undefined ? row.children[at].textContent.toLowerCase() : Number(value);
        };
        const keyed = rows().map((row) => [key(row), row]);
        const order = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
        keyed.sort(([one], [other]) => (up ? order(one, other) : order(other, one)));
        if (keyed.length) {
            keyed[0][1].parentElement.append(...keyed.map(([, row]) => row));
        }
    };

    const show = (name) => {
        const box = find("name") && find("name").querySelector("input, textarea");
        if (box) {
            box.value = name;
            box.dispatchEvent(new Event("input", {bubbles: true})); // Gradio listens to the event
            setTimeout(() => button("look") && button("look").click(), 50);
        }
    };

    document.addEventListener("click", (event) => {
        const pressed = event.target instanceof Element ? event.target.closest("#vae_manager_page_library button") : null;
        if (pressed && pressed.dataset.sort !== undefined) {
            sort(pressed);
        } else if (pressed && pressed.dataset.vae !== undefined) {
            show(pressed.dataset.vae);
        }
    });

    // --- two pictures on one another

    document.addEventListener("input", (event) => {
        const box = event.target;
        if (!(box instanceof HTMLInputElement)) {
            return;
        }
        if (box.closest("#vae_manager_page_search")) {
            search();
        }
        const slider = box.closest(".vae-manager-slider");
        if (slider) {
            slider.style.setProperty("--at", `${box.value}%`);
        }
    });

    // --- beginnings

    const start = () => {
        let waiting = 0;
        new MutationObserver(() => {
            clearTimeout(waiting);
            waiting = setTimeout(() => {
                watch();
                const library = find("library");
                if (library && library.querySelector("tbody") && !library.querySelector("tbody").dataset.searched) {
                    library.querySelector("tbody").dataset.searched = "1";
                    search(); // a new table under an old search
                }
            }, 100);
        }).observe(document.body, {childList: true, subtree: true});
        watch();
    };

    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        start();
    }
})();
