// The operator's page. Everything that it shows comes from /api/v1 and is put in as text, never as markup.

const REFRESH_MS = 5000;
const EVENTS_SHOWN = 100;
const WORKLOADS_SHOWN = 300;
const $ = (id) => document.getElementById(id);
const state = { token: "", now: 0, at: 0, frozen: false, status: null, workloads: null, incidents: null, detail: "", opener: "", lastEvent: "" };

// -- making and filling -------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// Rows that stay keep their element, and with it focus and place.
const told = new WeakMap();
function sync(parent, items, key, fill) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let row = before.get(name);
    const text = JSON.stringify(item);
    if (!row || told.get(row) !== text) {
      const fresh = fill(item);
      fresh.dataset.key = name;
      told.set(fresh, text);
      if (row) {
        const held = row.contains(document.activeElement) ? document.activeElement : null;
        const index = held ? focusable(row).indexOf(held) : -1;
        if (place === row) place = fresh;
        row.replaceWith(fresh);
        if (index >= 0) focusable(fresh)[index]?.focus();
      }
      row = fresh;
    }
    before.delete(name);
    if (row === place) place = place.nextElementSibling;
    else parent.insertBefore(row, place);
  }
  for (const gone of before.values()) gone.remove();
}
const focusable = (element) => [...element.querySelectorAll("a, button")];

const cell = (content, kind) => make("td", { class: kind }, content ?? "");
const unknown = () => make("span", { class: "dim" }, "unknown");
const lasting = (seconds) => (seconds === null ? unknown() : duration(seconds));

function bar(parts, whole, over = false) {
  const made = make("span", { class: "bar", "aria-hidden": "true" });
  for (const part of parts) {
    const piece = make("i", { class: over ? "over" : null });
    piece.style.width = `${whole > 0 ? Math.min(100, (100 * part) / whole) : 0}%`;
    made.append(piece);
  }
  return made;
}

// -- words --------------------------------------------------------------------------------------------------------------

const dollars = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: 2 });
const usd = (value) => (value === null || value === undefined ? unknown() : dollars.format(Number(value)));
const price = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const rate = (value) => (value === null || value === undefined ? unknown() : make("span", { title: value }, price.format(Number(value))));
const number = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 });

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "unknown";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
const instant = (at) => new Date(at * 1000).toISOString();
const clock = (at) => instant(at).slice(11, 19);
const day = (at) => instant(at).slice(0, 16).replace("T", " ");
const when = (at, words = day) => make("time", { datetime: instant(at), title: `${instant(at).slice(0, 19)}Z` }, words(at));
const nameOf = (ref) => `${ref.kind}/${ref.namespace}/${ref.name}`;
const link = (ref) => make("a", { href: `#workload/${[ref.kind, ref.namespace, ref.name].map(encodeURIComponent).join("/")}` }, `${ref.namespace}/${ref.name}`);
const pool = (ref) => `${ref.cluster}/${ref.pool}`;
const poolCell = (ref) => make("td", { class: "where" }, `${ref.cluster}/`, make("wbr"), ref.pool);
const empty = (columns, text) => make("tr", {}, make("td", { class: "empty", colspan: columns }, text));
const OUTCOMES = ["placed", "burst", "started", "released", "moved"];

// -- asking -------------------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...(options.headers ?? {}) };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  const answer = await fetch(`/api/v1/${path}`, { ...options, headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(15000) });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body.error ?? `HTTP ${answer.status}`);
  return body;
}

let refreshing = false;
let again = false;
async function refresh() {
  if (state.frozen || document.hidden) return;
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = true;
  try {
    const [status, workloads, incidents] = await Promise.all([ask("status"), ask(`workloads?limit=${WORKLOADS_SHOWN}`), ask("incidents")]);
    Object.assign(state, { status, workloads, incidents, now: status.now, at: performance.now() });
    say("");
    show();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) signIn();
    else say(error instanceof Refused ? error.message : "The daemon does not answer; what is shown is what it said last.");
  } finally {
    refreshing = false;
    if (again) {
      again = false;
      soon();
    }
  }
}

let timer = 0;
function soon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, 700);
}

function say(text) {
  if ($("notice").textContent !== text) $("notice").textContent = text;
  $("notice").hidden = !text;
}

// -- showing ------------------------------------------------------------------------------------------------------------

function show() {
  showHead();
  showSummary();
  showClusters();
  showQueues();
  showSpend();
  showIncidents();
  showWorkloads();
}

function showHead() {
  const { status } = state;
  document.title = `${status.federation} · Overspill`;
  $("federation").textContent = status.federation;
  const chips = [
    [status.mode, status.mode === "shadow" ? "chip warn" : "chip"],
    [status.leader || status.mode === "shadow" ? "" : "standby", "chip"],
    [status.synced ? "" : "not synced", "chip bad"],
    [status.policies.error ? "policies refused" : "", "chip bad"],
  ].filter(([text]) => text);
  sync($("badges"), chips, ([text]) => text, ([text, kind]) => make("span", { class: kind }, text));
  $("clock").textContent = `${day(status.now)} UTC`;
  $("clock").dateTime = instant(status.now);
  $("policies").textContent = status.policies.error
    ? `Policies refused, the last good set counts: ${status.policies.error}`
    : `Policies ${status.policies.digest.slice(0, 12)}, read ${day(status.policies.loaded_at)}`;
}

function totals() {
  const pools = state.status.clusters.flatMap((each) => each.pools);
  const sum = (of) => pools.reduce((all, each) => all + (of(each) ?? 0), 0);
  return { gpus: sum((each) => each.gpus), used: sum((each) => each.gpus_used), bought: sum((each) => (each.bought ? each.nodes : 0)) };
}

function showSummary() {
  const { status, incidents } = state;
  const { gpus, used, bought } = totals();
  const open = incidents.incidents.filter((each) => each.state !== "resolved").length;
  const away = status.clusters.filter((each) => !each.available).length;
  const tiles = [
    ["GPUs in use", `${used}`, `of ${gpus}`],
    ["Waiting", `${status.workloads.pending}`, status.workloads.reserved ? `${status.workloads.reserved} reserved` : ""],
    ["Running", `${status.workloads.started}`, status.workloads.paused ? `${status.workloads.paused} paused` : ""],
    ["Finished", `${status.workloads.finished}`, ""],
    ["Bought nodes", `${bought}`, `${status.counters.bursts} burst${status.counters.bursts === 1 ? "" : "s"}`],
    ["Spent", dollars.format(Number(status.spend_usd)), status.unpriced_node_seconds ? "some unpriced" : ""],
    ["Clusters", `${status.clusters.length - away}`, away ? `${away} away` : "all there"],
    ["Incidents", `${open}`, "open"],
  ];
  if (status.shadow) tiles[5] = ["Would have saved", dollars.format(Number(status.shadow.saved_usd)), "shadow"];
  sync($("summary"), tiles, ([name]) => name, ([name, value, more]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value, more ? " " : "", more ? make("small", {}, more) : "")));
}

function showClusters() {
  const table = $("clusters").querySelector("table");
  const bodies = state.status.clusters.map((each) => ({ ...each, round_trip_seconds: each.round_trip_seconds === null ? null : Math.round(each.round_trip_seconds * 1000) }));
  for (const [index, cluster] of bodies.entries()) {
    const body = table.tBodies[index] ?? table.appendChild(make("tbody"));
    const rows = [{ ...cluster, pools: null }, ...cluster.pools];
    sync(body, rows, (row) => (row.pool === undefined ? "head" : row.pool), (row) => (row.pool === undefined ? clusterRow(row) : poolRow(row)));
  }
  while (table.tBodies.length > bodies.length) table.tBodies[table.tBodies.length - 1].remove();
}

function clusterRow(cluster) {
  const away = cluster.unreachable_seconds !== null ? `does not answer for ${duration(cluster.unreachable_seconds)}` : "not available";
  return make("tr", { class: "cluster" }, make("th", { scope: "rowgroup", colspan: 7 }, `${cluster.id} `,
    make("span", {}, cluster.provider === cluster.id ? cluster.region : `${cluster.provider} · ${cluster.region}`),
    cluster.round_trip_seconds === null ? "" : make("span", { title: "round trip" }, `${cluster.round_trip_seconds} ms`),
    make("span", { class: cluster.available ? "good" : "bad" }, cluster.available ? "available" : away),
    cluster.error ? make("span", { class: "note" }, cluster.error) : ""));
}

function poolRow(each) {
  const nodes = each.nodes === null ? unknown() : `${each.nodes_ready} / ${each.nodes}`;
  const coming = each.desired_nodes !== null && each.nodes !== null && each.desired_nodes > each.nodes ? ` +${each.desired_nodes - each.nodes}` : "";
  return make("tr", {},
    make("th", { scope: "row" }, each.pool,
      each.shortage ? make("span", { class: "note" }, `shortage: ${each.shortage}`) : "",
      each.reclaimed.length ? make("span", { class: "note" }, `${each.reclaimed.length} being taken back`) : ""),
    cell(each.capacity_type + (each.bought ? ", bought" : ""), "w"),
    cell(each.gpu_model ?? (each.gpus === 0 && each.nodes ? "none" : "–"), "w"),
    make("td", { class: "use" }, bar([each.gpus_used ?? 0], each.gpus ?? 0), each.gpus === null ? unknown() : make("span", { class: each.gpus ? null : "dim" }, `${each.gpus_used} / ${each.gpus}`)),
    make("td", { class: each.nodes ? "n" : "n dim" }, nodes, coming ? make("span", { class: "warn", title: "asked for" }, coming) : ""),
    cell(each.scaling === "fixed" ? "fixed" : `${each.max_nodes}`, "n w"),
    cell(rate(each.usd_per_hour), "n"));
}

function showQueues() {
  const spent = new Map();
  for (const line of state.status.spend) spent.set(line.queue, (spent.get(line.queue) ?? 0) + Number(line.usd));
  const rows = state.status.queues.map((each) => ({ ...each, spent: spent.get(each.queue) ?? 0 }));
  const body = $("queues").querySelector("tbody");
  if (!rows.length) return body.replaceChildren(empty(6, "No queue is in use."));
  sync(body, rows, (row) => row.queue, (row) => make("tr", {}, make("th", { scope: "row" }, row.queue), cell(`${row.pending}`, "n"),
    cell(`${row.placed}`, "n"), cell(`${row.gpus_used}`, "n"), cell(`${Math.round(100 * row.dominant_share)} %`, "n w"), cell(dollars.format(row.spent), "n")));
}

function showSpend() {
  const { budgets, spend } = state.status;
  const body = $("budgets").tBodies[0];
  if (!budgets.length) body.replaceChildren(empty(4, "No policy sets a budget."));
  else sync(body, budgets, (row) => `${row.policy}/${row.budget}`, (row) => {
    const [limit, spent, committed] = [row.limit_usd, row.spent_usd, row.committed_usd].map(Number);
    const left = limit - spent - committed;
    return make("tr", {}, make("th", { scope: "row" }, `${row.policy} / ${row.budget}`),
      make("td", { class: "use" }, bar([spent, committed], limit, left < 0), `${dollars.format(spent + committed)} of ${dollars.format(limit)}`),
      cell(make("span", { class: left < 0 ? "bad" : left < limit / 10 ? "warn" : null }, dollars.format(left)), "n"),
      make("td", { class: "n w" }, row.window_ends_at === null ? "never" : when(row.window_ends_at)));
  });
  const by = new Map();
  for (const line of spend) {
    const key = `${line.cluster}\n${line.capacity_type}`;
    by.set(key, (by.get(key) ?? 0) + Number(line.usd));
  }
  const lines = [...by].sort((one, other) => other[1] - one[1]);
  if (!lines.length) return $("bill").tBodies[0].replaceChildren(empty(3, "Nothing was bought."));
  sync($("bill").tBodies[0], lines, ([key]) => key, ([key, total]) => make("tr", {}, make("th", { scope: "row" }, key.split("\n")[0]),
    cell(key.split("\n")[1]), cell(dollars.format(total), "n")));
}

function showIncidents() {
  const { incidents, status } = state;
  const can = status.mode === "active";
  const switches = [["pause", "remedies-state", incidents.paused, "remedies", "paused"], ["pause-buying", "buying-state", incidents.bursting_paused, "buying", "bursting_paused"]];
  for (const [id, label, on, what] of switches) {
    $(label).textContent = `${what === "remedies" ? "Remedies" : "Buying capacity"}: ${on ? "paused" : "on"}`;
    $(label).className = on ? "warn" : "";
    $(id).textContent = `${on ? "Resume" : "Pause"} ${what}`;
    $(id).disabled = !can;
    $(id).title = can ? "" : "Shadow mode writes nothing";
  }
  const shown = incidents.incidents.slice(0, 100);
  if (!shown.length) return $("incident-list").replaceChildren(make("li", { class: "dim" }, "No incidents."));
  sync($("incident-list"), shown, (each) => each.id, (each) => {
    const about = Object.entries(each.subject).filter(([, value]) => value).map(([part, value]) => `${part} ${value}`).join(", ");
    const asked = each.notes.filter((note) => note.reason === "ApprovalNeeded");
    return make("li", {},
      make("p", {}, make("strong", { class: each.severity }, each.kind), ` ${each.severity}, ${each.state}, since `, when(each.opened_at)),
      make("p", {}, about || "whole fleet"),
      each.phase ? make("p", {}, `${each.policy}: ${each.phase}${each.action ? `, ${each.action}` : ""}${each.tried.length ? `; tried ${each.tried.join(", ")}` : ""}`) : "",
      ...each.notes.filter((note) => note.reason !== "ApprovalNeeded").map((note) => make("p", {}, `${note.action ? `${note.action}: ` : ""}${note.text}`)),
      ...asked.map((note) => make("button", { type: "button", disabled: !can, onclick: () => approve(each, note.action) }, `Approve ${note.action}`)));
  });
}

function showWorkloads() {
  const { workloads, total } = state.workloads;
  options($("by-queue"), [...new Set(workloads.map((each) => each.queue))].sort());
  options($("by-phase"), [...new Set(workloads.map((each) => each.phase))].sort());
  const [name, queue, phase] = [$("by-name").value.trim().toLowerCase(), $("by-queue").value, $("by-phase").value];
  const found = workloads.filter((each) => (!name || nameOf(each).toLowerCase().includes(name)) && (!queue || each.queue === queue) && (!phase || each.phase === phase));
  $("shown").textContent = total > workloads.length || found.length < workloads.length ? `${found.length} shown of ${total}` : `${total}`;
  const body = $("workloads").querySelector("tbody");
  if (!found.length) return body.replaceChildren(empty(7, total ? "None is like that." : "None yet: label a Job with overspill.dev/queue."));
  const rows = found.map((each) => ({ ...each, age: each.created_at === null ? "" : duration(state.now - each.created_at) }));
  sync(body, rows, (row) => row.uid, (row) => make("tr", {}, make("th", { scope: "row" }, link(row)), cell(row.queue, "w"),
    cell(make("span", { class: { started: "good", pending: "warn", invalid: "bad" }[row.phase] ?? "dim" }, row.phase), "phase"), cell(`${row.gpus ?? ""}`, "n"),
    row.placement ? poolCell(row.placement) : cell(""), cell(row.age, "n w"), cell(row.invalid ?? (row.condition ? row.condition[1] : ""), "w why dim")));
}

function options(select, values) {
  const now = select.value;
  const wanted = ["", ...(now && !values.includes(now) ? [now] : []), ...values];
  if ([...select.options].map((each) => each.value).join("\n") === wanted.join("\n")) return;
  select.replaceChildren(...wanted.map((value) => make("option", { value }, value || "all")));
  select.value = now;
}

// -- placements as they happen ------------------------------------------------------------------------------------------

function addEvent(each) {
  const list = $("events");
  const where = each.pool && !each.sentence.includes(each.pool) ? `on ${each.pool}: ` : "";
  const cost = each.expected_cost_usd === null ? "" : `, about ${dollars.format(Number(each.expected_cost_usd))}`;
  list.querySelector(".dim")?.remove();
  list.prepend(make("li", {}, when(each.at, clock), make("span", { class: `out ${OUTCOMES.includes(each.outcome) ? each.outcome : ""}` }, each.outcome), " ", link(each.workload),
    make("p", {}, where + each.sentence + cost)));
  while (list.children.length > EVENTS_SHOWN) list.lastElementChild.remove();
}

function live(on, text) {
  $("live").className = on ? "on" : "off";
  if ($("live").textContent !== text) $("live").textContent = text;
}

let listening = null;
async function listen() {
  listening?.abort();
  const turn = (listening = new AbortController());
  let pause = 1000;
  while (!turn.signal.aborted) {
    try {
      await follow(turn.signal, () => { pause = 1000; });
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return signIn();
    }
    if (turn.signal.aborted) return;
    live(false, "reconnecting");
    await new Promise((go) => setTimeout(go, pause * (0.5 + Math.random() / 2)));
    pause = Math.min(30000, pause * 2);
  }
}

// EventSource cannot send a token, so the stream is read by hand.
async function follow(signal, begun) {
  const headers = { Accept: "text/event-stream" };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  if (state.lastEvent) headers["Last-Event-ID"] = state.lastEvent;
  const answer = await fetch("/api/v1/events", { headers, signal, cache: "no-store", credentials: "omit" });
  if (!answer.ok) throw new Refused(answer.status, "no events");
  live(true, "live");
  begun();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) take(block);
  }
}

function take(block) {
  const fields = Object.fromEntries(block.split("\n").filter((line) => line.indexOf(": ") > 0).map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
  if (fields.event === "missed") return $("events").prepend(make("li", { class: "warn" }, `${fields.data} more, too fast to tell`));
  if (fields.event !== "decision") return undefined;
  state.lastEvent = fields.id;
  addEvent(JSON.parse(fields.data));
  return soon();
}

// -- one workload -------------------------------------------------------------------------------------------------------

async function showDetail(name) {
  state.detail = name;
  $("detail-title").textContent = name;
  $("detail-body").replaceChildren(make("p", { class: "dim" }, "asking…"));
  if (!$("detail").open) {
    state.opener = document.activeElement?.getAttribute("href") ?? "";
    $("detail").showModal();
  }
  $("detail-title").focus();
  try {
    const answer = await ask(`explain?workload=${encodeURIComponent(name)}`);
    if (state.detail === name) $("detail-body").replaceChildren(...explained(answer));
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return signIn();
    $("detail-body").replaceChildren(make("p", { class: "bad" }, error instanceof Refused ? error.message : "The daemon does not answer."));
  }
  return undefined;
}

function explained(answer) {
  const { workload, decisions } = answer;
  const telling = decisions.find((each) => each.chosen) ?? decisions[0];
  const place = workload.placement;
  const facts = [
    ["Queue", `${workload.queue}, priority ${workload.priority}`],
    ["Phase", workload.phase],
    ["GPUs", workload.gpus ?? "unknown"],
    ["Where", place ? `${pool(place)}, ${place.capacity_type}${place.bought ? ", bought for it" : ""}, ${place.state}` : "nowhere"],
    ["Decided", telling ? [when(telling.at), ` by policy ${telling.policy || "none"} (set ${telling.policy_digest.slice(0, 12)})`] : "not yet"],
    ...progressFacts(answer.progress),
    ...answer.waits?.map((each) => [`Wait for ${each.cluster}`, `about ${duration(each.expected_seconds)}, 9 in 10 under ${duration(each.p90_seconds)} (${each.observed} waits seen)`]) ?? [],
  ];
  const sentence = workload.invalid ?? decisions[0]?.sentence ?? workload.condition?.[1] ?? "No decision is recorded yet.";
  return [
    make("p", { class: "say" }, sentence),
    make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, ...[value].flat())])),
    ...costParts(answer.cost),
    ...(telling ? offerings(telling) : []),
    ...(telling ? refusals(telling) : []),
    ...(telling?.binding.length ? [make("h3", {}, "What binds, and what one more would be worth"), make("ul", {}, ...telling.binding.map((each) => make("li", {}, `${each.name} ${each.resource}: ${number.format(each.worth_usd)} ${each.meaning}`)))] : []),
    ...past(decisions),
  ];
}

function progressFacts(progress) {
  if (!progress || (progress.done === null && !progress.begun)) return [];
  if (progress.done === null) return [["Done", `${Math.round(100 * progress.begun)} % is kept`]];
  const left = progress.per_second ? `, about ${duration((1 - progress.done) / progress.per_second)} left` : "";
  return [["Done", `${Math.round(100 * progress.done)} %${left}, by its own metric`]];
}

function costParts(cost) {
  if (!cost) return [];
  const rows = Object.keys(cost.expected_parts).map((name) => make("tr", {}, make("th", { scope: "row" }, name), cell(usd(cost.expected_parts[name]), "n"), cell(usd(cost.p90_parts[name]), "n")));
  return [make("h3", {}, "Cost"), make("table", {}, make("caption", { class: "hidden" }, "Expected cost in parts"),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Part"), make("th", { scope: "col", class: "n" }, "Expected"), make("th", { scope: "col", class: "n" }, "9 in 10 under"))),
    make("tbody", {}, ...rows, make("tr", { class: "chosen" }, make("th", { scope: "row" }, "total"), cell(usd(cost.expected_usd), "n"), cell(usd(cost.p90_usd), "n")))),
    make("p", {}, "Paid so far ", usd(cost.paid_usd))];
}

function offerings(decision) {
  const all = [...(decision.chosen ? [decision.chosen] : []), ...decision.alternatives.filter((each) => !decision.chosen || pool(each.pool) !== pool(decision.chosen.pool))].filter((each) => !each.refused.length);
  if (!all.length) return [];
  const head = [["Offering", ""], ["Expected cost", "n"], ["$ / h", "n w"], ["Starts in", "n"], ["Runs", "n w"], ["New nodes", "n w"]];
  const rows = all.map((each) => make("tr", { class: each === decision.chosen ? "chosen" : null },
    make("th", { scope: "row" }, pool(each.pool), each === decision.chosen ? " (chosen)" : "",
      make("div", { class: "parts" }, each.capacity_type, each.cost_parts.length ? `: ${each.cost_parts.map((part) => `${part.name} ${dollars.format(part.usd)}`).join(" + ")} = ${dollars.format(each.score)}` : "",
        each.availability === null ? "" : `, comes ${Math.round(100 * each.availability)} times in 100`)),
    cell(usd(each.expected_cost_usd), "n"), cell(rate(each.usd_per_hour), "n w"), cell(lasting(each.expected_start_seconds), "n"),
    cell(lasting(each.expected_seconds), "n w"), cell(`${each.new_nodes}`, "n w")));
  const waiting = decision.wait ? [make("p", { class: "dim" }, `Waiting for ${pool(decision.wait.pool)}: about ${duration(decision.wait.expected_wait_seconds)}, ${dollars.format(decision.wait.expected_cost_usd)} with the time until it is done`)] : [];
  return [make("h3", {}, decision.chosen ? "Chosen, and its alternatives" : "What would do"), make("table", {}, make("caption", { class: "hidden" }, "Offerings, best first"),
    make("thead", {}, make("tr", {}, ...head.map(([name, kind]) => make("th", { scope: "col", class: kind || null }, name)))), make("tbody", {}, ...rows)), ...waiting];
}

function refusals(decision) {
  const counts = decision.refused.map(([reason, count]) => make("li", {}, `${count} × ${reason.text} `, make("span", { class: "dim" }, reason.code)));
  const each = decision.alternatives.filter((one) => one.refused.length).map((one) => make("li", {}, `${pool(one.pool)}: ${one.refused.map((reason) => reason.text).join("; ")}`));
  if (!counts.length && !each.length) return [];
  const listed = each.length ? make("details", { open: !counts.length }, make("summary", {}, "By offering"), make("ul", {}, ...each)) : "";
  return [make("h3", {}, "Why the rest did not fit"), make("ul", {}, ...counts), listed];
}

function past(decisions) {
  if (decisions.length < 2) return [];
  return [make("h3", {}, "Decisions, newest first"), make("ul", {}, ...decisions.slice(0, 20).map((each) => make("li", {}, when(each.at), ` ${each.outcome} (${each.reason.code}): ${each.sentence}`)))];
}

function route() {
  const parts = location.hash.slice(1).split("/");
  if (parts[0] === "workload" && parts.length === 4) {
    try {
      showDetail(parts.slice(1).map(decodeURIComponent).join("/"));
    } catch {
      history.replaceState(null, "", location.pathname);
    }
  } else if ($("detail").open) $("detail").close();
}

// -- switches -----------------------------------------------------------------------------------------------------------

let pending = null;
function act(title, text, button, then) {
  pending = then;
  $("act-title").textContent = title;
  $("act-text").textContent = text;
  $("act-do").textContent = button;
  $("act-error").textContent = "";
  $("act-token-label").hidden = Boolean(state.token);
  $("act").querySelector(".hint").hidden = Boolean(state.token);
  if (!$("act").open) $("act").showModal();
}

function signIn() {
  live(false, "signed out");
  if ($("act").open) return;
  state.token = "";
  act("Sign in", "From here, looking needs a token.", "Sign in", async () => {
    await ask("openapi.json");
    listen();
    refresh();
    route();
  });
}

const post = (path, body) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

function approve(incident, action) {
  act(`Approve ${action}`, `Lets ${action} be taken for incident ${incident.id} (${incident.kind}).`, "Approve", () => post(`incidents/${encodeURIComponent(incident.id)}/approve`, { action }));
}

function turn(key, what, meaning) {
  const on = !state.incidents[key];
  act(`${on ? "Pause" : "Resume"} ${what}`, on ? meaning : `Switches ${what} on again.`, on ? "Pause" : "Resume", () => post("switches", { [key]: on }));
}

async function confirm(event) {
  event.preventDefault();
  const before = state.token;
  const typed = $("act-token").value.trim();
  if (typed) state.token = typed;
  $("act-do").disabled = true;
  try {
    await pending();
    $("act-token").value = "";
    $("act").close();
    refresh();
  } catch (error) {
    $("act-error").textContent = error instanceof Refused ? error.message : "The daemon does not answer.";
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
      state.token = typed ? before : "";
      $("act-token-label").hidden = false;
      $("act-token").focus();
    }
  } finally {
    $("act-do").disabled = false;
  }
}

function freeze() {
  state.frozen = !state.frozen;
  $("freeze").setAttribute("aria-pressed", String(state.frozen));
  if (state.frozen) {
    listening?.abort();
    live(false, "frozen");
  } else {
    listen();
    refresh();
  }
}

// -- beginning ----------------------------------------------------------------------------------------------------------

$("freeze").addEventListener("click", freeze);
$("filter").addEventListener("input", () => state.workloads && showWorkloads());
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("pause").addEventListener("click", () => turn("paused", "remedies", "Nothing is remedied anywhere until they are resumed."));
$("pause-buying").addEventListener("click", () => turn("bursting_paused", "buying", "No capacity is bought anywhere until it is resumed."));
$("act-form").addEventListener("submit", confirm);
$("act-cancel").addEventListener("click", () => $("act").close());
$("act").addEventListener("close", () => { pending = null; $("act-token").value = ""; });
$("detail-close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("close", () => {
  state.detail = "";
  if (location.hash.startsWith("#workload/")) history.replaceState(null, "", location.pathname);
  // Where its row has been written anew meanwhile, the browser gives focus back to what is not there any more.
  const opener = state.opener && [...document.querySelectorAll("a")].find((link) => link.getAttribute("href") === state.opener);
  if (opener) opener.focus();
});
window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", refresh);
$("events").append(make("li", { class: "dim" }, "None yet."));
listen();
refresh();
route();
setInterval(refresh, REFRESH_MS);
