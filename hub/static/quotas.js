// The Quotas tab of the admin page: search, a project's balances and history, adjust by ± with a reason.
// Works through the hub's own routes (cookie and XSRF token); no other credential is ever in this page. Amounts are
// integers in the unit's smallest step; an adjustment's id is made here, so that sending it twice counts once.
(() => {
  "use strict";
  const root = document.getElementById("quotas");
  if (!root) return;
  const words = JSON.parse(document.getElementById("quotas-words").textContent);
  const GPU_MS = 3600000;
  const at = (id) => document.getElementById(id);
  const page = document.documentElement.lang || "en";
  const language = navigator.language.startsWith(page) ? navigator.language : page; // with the reader's own date order
  const decimals = new Intl.NumberFormat(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const small = new Intl.NumberFormat(language, { maximumSignificantDigits: 2 }); // a minute is not 0.00 GPU-h
  const whole = new Intl.NumberFormat(language);

  // ---- small builders ----
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && name !== "list") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const unitName = (unit) => (unit === "gpu_ms" ? words.gpu_h : words.tokens);
  const gpuHours = (amount) => (amount !== 0 && Math.abs(amount) < GPU_MS / 20 ? small : decimals).format(amount / GPU_MS);
  const number = (unit, amount) => (unit === "gpu_ms" ? gpuHours(amount) : whole.format(amount)).replace("-", "−");
  const signed = (unit, amount) => (amount > 0 ? "+" : "") + number(unit, amount);
  const instant = (text, style) => {
    if (!text) return "";
    const time = new Date(text);
    return make("time", { dateTime: text, title: text }, time.toLocaleString(language, style));
  };
  const DAY = { dateStyle: "medium" };
  const MINUTE = { dateStyle: "medium", timeStyle: "short" };

  const table = (caption, heads, rows) => {
    const head = make("tr", {}, ...heads.map(([title, end]) => make("th", { scope: "col", className: end ? "end" : "" }, title)));
    const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, i) => {
      const [title, end] = heads[i];
      return make("td", { className: end ? "end" : "", "data-label": title }, make("span", {}, cell ?? ""));
    })));
    return make("table", { className: "table cc-table" },
      make("caption", { className: "visually-hidden" }, caption), make("thead", {}, head), make("tbody", {}, ...body));
  };

  // ---- the relay ----
  const call = async (method, path, body) => {
    let answer;
    try {
      answer = await fetch(root.dataset.relay + path, {
        method,
        headers: { Accept: "application/json", "Content-Type": "application/json", "X-XSRFToken": window.jhdata.xsrf_token },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(20000),
      });
    } catch {
      throw new Error(words.failed);
    }
    const content = await answer.json().catch(() => ({}));
    if (answer.ok) return content;
    const said = content.error || {};
    const fields = ((said.params || {}).fields || []).map((one) => `${one.field}: ${one.text || one.reason}`);
    const problem = new Error([said.message || words.failed, said.next, ...fields].filter(Boolean).join(" "));
    problem.final = answer.status < 500;
    throw problem;
  };

  // ---- the list ----
  let asked = 0;
  let next = null;
  const balance = (project, unit) => project.balances.find((one) => one.unit === unit);

  const projectRow = (project) => {
    const open = make("button", { type: "button", className: "cc-link" }, project.title);
    open.addEventListener("click", () => openProject(project.project_id));
    const amounts = ["gpu_ms", "tokens"].flatMap((unit) => {
      const one = balance(project, unit);
      return one ? [number(unit, one.available), number(unit, one.awarded)] : ["", ""];
    });
    const cells = [open, project.pi ? project.pi.display_name || project.pi.hub_name : "", ...amounts, instant(project.ends_at, DAY)];
    const heads = [...at("quotas-table").querySelectorAll("th")];
    return make("tr", {}, ...cells.map((cell, i) =>
      make("td", { className: heads[i].className, "data-label": heads[i].textContent }, make("span", {}, cell))));
  };

  const search = async (more) => {
    const mine = ++asked;
    const said = at("quotas-said");
    const rows = at("quotas-table").tBodies[0];
    const query = new URLSearchParams({ search: at("quotas-query").value.trim(), limit: "50" });
    if (more && next) query.set("after", next);
    said.textContent = words.loading;
    try {
      const found = await call("GET", `projects?${query}`);
      if (mine !== asked) return;
      if (!more) rows.replaceChildren();
      rows.append(...found.projects.map(projectRow));
      next = found.next;
      at("quotas-more").hidden = !next;
      at("quotas-table").hidden = rows.rows.length === 0;
      const count = rows.rows.length;
      if (count === 0) said.textContent = at("quotas-query").value.trim() ? words.none : words.empty;
      else said.textContent = (count === 1 ? words.count_one : fill(words.count, { number: whole.format(count) })) + (next ? ` ${words.more_there}` : "");
    } catch (problem) {
      if (mine === asked) said.textContent = problem.message;
    }
  };

  // ---- one project ----
  const closeProject = () => {
    at("quotas-project").hidden = true;
    at("quotas-list").hidden = false;
    search(false).then(() => at("quotas-query").focus());
  };

  const adjustButton = (project, allocation) => {
    const button = make("button", { type: "button", className: "btn btn-sm btn-outline-primary" }, words.adjust);
    button.setAttribute("aria-label", fill(words.adjust_title, { unit: unitName(allocation.unit), project: project.title }));
    button.addEventListener("click", () => openAdjust(project, allocation));
    return button;
  };

  const changes = (line) => [["delta_awarded", words.awarded_word], ["delta_held", words.held_word], ["delta_charged", words.charged_word]]
    .filter(([name]) => line[name])
    .map(([name, word]) => `${word} ${signed(line.unit, line[name])} ${unitName(line.unit)}`)
    .join(", ");

  const showProject = (found, notice) => {
    const { project, allocations, history } = found;
    const back = make("button", { type: "button", className: "btn btn-outline-secondary btn-sm mb-3" }, `← ${words.back}`);
    back.addEventListener("click", closeProject);
    const heading = make("h1", { tabIndex: -1 }, project.title);
    const allocationRows = allocations.map((one) => [
      unitName(one.unit), one.frozen ? words.frozen : words[one.state] || one.state,
      make("span", {}, instant(one.starts_at, DAY), " – ", instant(one.ends_at, DAY)),
      ...["awarded", "charged", "held", "available"].map((name) => number(one.unit, one.balance[name])),
      adjustButton(project, one),
    ]);
    const historyRows = history.map((line) => [instant(line.at, MINUTE), line.who, line.text, changes(line), line.reason]);
    const said = make("div", { className: "alert alert-success", role: "status", hidden: !notice }, notice || "");
    at("quotas-project").replaceChildren(
      back, heading, make("p", { className: "cc-soft" }, [project.slug, project.pi && project.pi.display_name].filter(Boolean).join(" · ")), said,
      make("h2", {}, words.allocations),
      table(words.allocations, [[words.unit], [words.state], [words.period], [words.awarded, 1], [words.charged, 1], [words.held, 1], [words.available, 1], [words.change]], allocationRows),
      make("h2", { className: "mt-4" }, words.history),
      historyRows.length === 0 ? make("p", { className: "cc-soft" }, words.no_history)
        : table(words.history, [[words.when], [words.who], [words.what], [words.change], [words.why]], historyRows),
    );
    at("quotas-list").hidden = true;
    at("quotas-project").hidden = false;
    heading.focus();
  };

  const openProject = async (id, notice) => {
    try {
      showProject(await call("GET", `projects/${encodeURIComponent(id)}`), notice);
    } catch (problem) {
      at("quotas-said").textContent = problem.message;
    }
  };

  // ---- adjust: edit → preview → confirm ----
  const dialog = at("adjust-dialog");
  let order = null; // {project, allocation, id, delta, reason, sent}

  const stage = (preview) => {
    at("adjust-edit").hidden = preview;
    at("adjust-back").hidden = !preview || order.sent;
    at("adjust-next").textContent = preview ? words.confirm : words.preview;
    at("adjust-next").disabled = false;
    at("adjust-error").hidden = true;
    if (!preview) at("adjust-preview").replaceChildren();
  };

  const openAdjust = (project, allocation) => {
    order = { project, allocation, previewed: false, sent: false };
    at("adjust-form").reset();
    at("adjust-title").textContent = fill(words.adjust_title, { unit: unitName(allocation.unit), project: project.title });
    at("adjust-amount-label").textContent = allocation.unit === "gpu_ms" ? words.amount_gpu : words.amount_tokens;
    complain("adjust-amount", "");
    complain("adjust-reason", "");
    stage(false);
    dialog.showModal();
    at("adjust-amount").focus();
  };

  const complain = (id, text) => {
    at(`${id}-error`).textContent = text;
    at(`${id}-error`).hidden = !text;
    if (text) at(id).setAttribute("aria-invalid", "true");
    else at(id).removeAttribute("aria-invalid");
  };

  // Exact for what people type: the fraction is read as digits, never as a float.
  const readAmount = (unit, text) => {
    const plain = text.replace(/[\s,_]/g, "");
    const match = (unit === "gpu_ms" ? /^(\d{1,8})(?:\.(\d{1,6}))?$/ : /^(\d{1,15})$/).exec(plain);
    if (!match) return 0;
    if (unit !== "gpu_ms") return Number(match[1]);
    const fraction = (match[2] || "").padEnd(6, "0");
    return Number(match[1]) * GPU_MS + Math.floor((Number(fraction) * GPU_MS) / 1000000);
  };

  const preview = () => {
    const { unit, balance: now } = order.allocation;
    const amount = readAmount(unit, at("adjust-amount").value);
    const reason = at("adjust-reason").value.trim();
    complain("adjust-amount", amount > 0 ? "" : unit === "gpu_ms" ? words.amount_wrong : words.amount_wrong_tokens);
    complain("adjust-reason", reason.length >= 3 && reason.length <= 500 ? "" : words.reason_wrong);
    const wrong = dialog.querySelector("[aria-invalid]");
    if (wrong) {
      wrong.focus();
      return;
    }
    const delta = amount * Number(at("adjust-form").elements.sign.value);
    Object.assign(order, { delta, reason, id: crypto.randomUUID().replaceAll("-", ""), previewed: true });
    const row = (title, before) =>
      make("tr", {}, make("th", { scope: "row" }, title), make("td", { className: "end" }, number(unit, before)), make("td", { className: "end" }, number(unit, before + delta)));
    stage(true);
    at("adjust-preview").replaceChildren(
      make("p", { className: "cc-strong" }, `${signed(unit, delta)} ${unitName(unit)}`),
      make("table", { className: "cc-preview" },
        make("thead", {}, make("tr", {}, make("td"), make("th", { scope: "col", className: "end" }, words.before), make("th", { scope: "col", className: "end" }, words.after))),
        make("tbody", {}, row(words.awarded, now.awarded), row(words.available, now.available))),
      make("p", {}, `${words.why}: ${reason}`),
    );
    if (now.available + delta < 0) at("adjust-preview").append(make("p", { className: "cc-refusal" }, words.too_much));
    at("adjust-next").focus();
  };

  const confirm = async () => {
    const button = at("adjust-next");
    button.disabled = true;
    button.textContent = words.saving;
    order.sent = true;
    at("adjust-back").hidden = true; // from here on only the same adjustment may be repeated
    try {
      await call("PUT", `adjustments/${order.id}`, {
        allocation_id: order.allocation.allocation_id, delta: order.delta, reason: order.reason,
      });
      dialog.close();
      const change = `${signed(order.allocation.unit, order.delta)} ${unitName(order.allocation.unit)}`;
      await openProject(order.project.project_id, fill(words.saved, { change }));
    } catch (problem) {
      at("adjust-error").textContent = problem.final ? problem.message : `${problem.message} ${words.retry}`;
      at("adjust-error").hidden = false;
      button.textContent = words.confirm;
      button.disabled = false;
      if (problem.final) { // refused for certain: it may be changed and gets another id
        order.sent = false;
        at("adjust-back").hidden = false;
      }
    }
  };

  at("adjust-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (order.previewed) confirm();
    else preview();
  });
  at("adjust-back").addEventListener("click", () => {
    order.previewed = false;
    stage(false);
    at("adjust-amount").focus();
  });
  at("adjust-close").addEventListener("click", () => dialog.close());

  at("quotas-search").addEventListener("submit", (event) => {
    event.preventDefault();
    search(false);
  });
  at("quotas-more").addEventListener("click", () => search(true));
  let shown = false;
  at("quotas-tab").addEventListener("shown.bs.tab", () => {
    if (!shown) search(false);
    shown = true;
  });
})();
