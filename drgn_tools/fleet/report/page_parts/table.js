// SPDX-License-Identifier: LGPL-2.1-or-later
// A table that sorts, filters, opens rows and is drawn in parts.

class Table {
  // columns: {name, label, kind: text, word, mono, id, number, measure, time, bar; value(row): to sort and filter by;
  // show(row): what is seen, by default the value}. open(row): what a click on a row shows.
  constructor(
    id,
    { title, hint, columns, sort, descending = true, open = null, words = () => "" },
  ) {
    Object.assign(this, { columns, sort, descending, open, words, rows: [], limit: ROWS_AT_FIRST });
    this.opened = new Set();
    this.section = byId(id);
    this.count = el("span", { class: "count", "aria-live": "polite" });
    this.input = el("input", {
      type: "search",
      placeholder: "Filter rows",
      "aria-label": `Filter ${title.toLowerCase()}`,
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.#start(),
    });
    this.headers = columns.map((column) => this.#header(column));
    this.body = el("tbody", { onclick: (event) => this.#clicked(event) });
    this.empty = el("div", { class: "nothing" }, "Nothing here.");
    this.more = el("button", { type: "button", class: "more", onclick: () => this.#showMore() });
    const table = el(
      "table",
      { "aria-label": title },
      el("thead", {}, el("tr", {}, ...this.headers)),
      this.body,
    );
    this.section.append(
      el("div", { class: "head" }, el("h2", {}, title), this.count, this.input),
      hint ? el("p", { class: "hint" }, hint) : "",
      el(
        "div",
        { class: "scroll", tabindex: "0", role: "group", "aria-label": title },
        table,
        this.empty,
      ),
      this.more,
    );
  }

  setRows(rows) {
    this.rows = rows;
    this.#start();
  }

  filterBy(text) {
    this.input.value = text;
    this.#start();
    this.section.scrollIntoView();
  }

  #start() {
    this.limit = ROWS_AT_FIRST;
    this.draw();
  }

  #showMore() {
    this.limit += ROWS_MORE;
    this.draw();
  }

  #header(column) {
    const button = el(
      "button",
      { type: "button", title: column.title, onclick: () => this.#sortBy(column) },
      column.label,
    );
    return el("th", { class: column.kind, scope: "col" }, button);
  }

  #sortBy(column) {
    const isNumber = !["text", "word", "mono", "id"].includes(column.kind);
    this.descending = this.sort === column.name ? !this.descending : isNumber;
    this.sort = column.name;
    this.#start();
  }

  #sorted(rows) {
    const column = this.columns.find((column) => column.name === this.sort);
    if (!column) return rows; // in the order they came
    const sign = this.descending ? -1 : 1;
    return rows.slice().sort((a, b) => compare(column.value(a), column.value(b), sign));
  }

  #matching() {
    const wanted = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) return this.rows;
    return this.rows.filter((row) => {
      const text = this.#textOf(row);
      return wanted.every((part) => text.includes(part));
    });
  }

  #textOf(row) {
    const values = this.columns
      .filter((column) => column.kind !== "bar")
      .map((column) => column.text?.(row) ?? column.value(row));
    return `${values.join("\n")}\n${this.words(row)}`.toLowerCase();
  }

  draw() {
    const rows = this.#sorted(this.#matching());
    this.count.textContent =
      rows.length === this.rows.length
        ? count(rows.length)
        : `${count(rows.length)} of ${count(this.rows.length)}`;
    this.headers.forEach((header, i) => this.#markSorted(header, this.columns[i]));
    this.visible = rows.slice(0, this.limit);
    this.body.replaceChildren(...this.visible.flatMap((row, i) => this.#drawRow(row, i)));
    this.empty.hidden = rows.length > 0;
    this.more.hidden = rows.length <= this.limit;
    this.more.textContent = `Show more (${count(rows.length - this.visible.length)} are not drawn yet)`;
  }

  #markSorted(header, column) {
    const order = this.descending ? "descending" : "ascending";
    header.setAttribute("aria-sort", column.name === this.sort ? order : "none");
  }

  #drawRow(row, i) {
    const cells = this.columns.map((column, j) =>
      this.#drawCell(row, column, j === 0 && this.open),
    );
    const line = el("tr", { "data-row": i }, ...cells);
    if (!this.open || !this.opened.has(row.key)) return [line];
    return [
      line,
      el("tr", { class: "opened" }, el("td", { colspan: this.columns.length }, this.open(row))),
    ];
  }

  #drawCell(row, column, opens) {
    const seen = column.show ? column.show(row) : shownValue(column.kind, column.value(row));
    const cell = el("td", { class: column.wide ? `${column.kind} wide` : column.kind });
    if (opens)
      cell.append(
        el(
          "button",
          {
            type: "button",
            class: "link opener",
            "aria-expanded": String(this.opened.has(row.key)),
          },
          seen,
        ),
      );
    else cell.append(seen);
    return cell;
  }

  #clicked(event) {
    const line = event.target.closest("tr[data-row]");
    const button = event.target.closest("button");
    if (!this.open || !line || (button && !button.classList.contains("opener"))) return;
    if (String(getSelection())) return; // somebody marks text to copy it
    const { key } = this.visible[line.dataset.row];
    if (!this.opened.delete(key)) this.opened.add(key);
    this.draw();
    this.body
      .querySelector(`tr[data-row="${line.dataset.row}"] .opener`)
      .focus({ preventScroll: true });
  }
}

function compare(a, b, sign) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1; // nothing is last, whichever way
  if (b === null || b === undefined) return -1;
  return (
    sign *
    (typeof a === "number" && typeof b === "number" ? a - b : natural.compare(String(a), String(b)))
  );
}

function shownValue(kind, value) {
  if (value === null || value === undefined) return "–";
  if (kind === "time") return minute(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? count(value) : String(value);
}
