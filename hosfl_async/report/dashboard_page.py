"""The dashboard's page: one text, nothing fetched from elsewhere. What a run says is set as text, never as markup."""

from __future__ import annotations

from hosfl_async.report.page_style import stylesheet

_RULES = """
h1 span{font-weight:400;color:var(--muted);font-size:1rem;margin-left:.6rem}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:.9rem;align-items:start}
.two>section{margin:0}
.card{background:var(--card);border:1px solid var(--faint);border-radius:10px;padding:.8rem .9rem;min-width:0}
canvas,svg{width:100%;display:block}
canvas{cursor:pointer}
svg text{fill:var(--muted);font-size:11px}
.tiles dd{font-variant-numeric:tabular-nums}
button,input{font:inherit;color:inherit;background:none;border:1px solid var(--faint);border-radius:6px;padding:.15rem .5rem}
td button{border:0;padding:0;text-decoration:underline;cursor:pointer}
:focus-visible{outline:2px solid var(--run-0);outline-offset:1px}
pre{overflow:auto;max-height:26rem;font-size:.8rem;margin:.5rem 0 0}
.scroll{margin-top:.6rem;max-height:26rem;overflow:auto}
.scroll td,.scroll th{padding:.3rem .5rem}
td:nth-child(2),th:nth-child(2),td:last-child,th:last-child{text-align:left}
"""

_BODY = """
<main><header><h1><b id="name">connecting</b><span id="state" role="status"></span></h1><p class="about" id="about"></p></header>
<dl class="tiles">
<div><dt>Accuracy</dt><dd id="accuracy">–</dd><small id="best"></small></div>
<div><dt>Client steps</dt><dd id="steps">–</dd><small id="wanted"></small></div>
<div><dt>Throughput</dt><dd id="rate">–</dd><small>steps a modelled second</small></div>
<div><dt>Log</dt><dd id="version">–</dd><small id="digest"></small></div>
<div><dt>Staleness</dt><dd id="staleness">–</dd><small id="stalest"></small></div>
<div><dt>Duals in flight</dt><dd id="duals">–</dd><small id="server"></small></div>
<div><dt>Refused</dt><dd id="refused">–</dd><small id="lost"></small></div>
</dl>
<div class="two">
<section class="card"><h2>Accuracy against client steps</h2>
<svg id="curve" viewBox="0 0 400 200" role="img" aria-label="accuracy"></svg></section>
<section class="card"><h2>Clients</h2><div class="legend" id="legend"></div>
<canvas id="map" height="200" aria-label="one square a client"></canvas>
<small id="shown"></small></section>
</div>
<section class="two">
<div class="card"><h2>Those that lag most</h2><label>Find <input id="find" type="search" placeholder="client-3"></label>
<div class="scroll"><table><thead><tr><th>client</th><th>state</th><th>lag</th><th>in the log</th><th>refused</th>
<th>latest step</th></tr></thead>
<tbody id="rows"></tbody></table></div></div>
<div class="card" id="one" hidden><h2 id="who"></h2><p id="what"></p><button id="again" type="button">read its story anew</button>
<pre id="story" tabindex="0"></pre></div>
</section></main>
"""

_SCRIPT = """
'use strict';
const at = id => document.getElementById(id), say = (id, text) => { at(id).textContent = text; };
const COLOURS = {'computing': '--computing', 'waiting for the dual': '--dual', 'catching up': '--catch-up', 'waiting otherwise': '--idle',
  'offline': '--offline'};
const number = value => value.toLocaleString('en');
let seen = null, chosen = decodeURIComponent(location.hash.slice(1)), side = 12, columns = 1;

function show(next) {
  seen = next;
  const look = next.look, points = next.evaluations, end = next.ended;
  say('name', next.scenario);
  const flaws = (next.caught_up ? '' : ', reading the journal') + (next.journal ? '' : ', without a journal') +
    (next.connection ? ': ' + next.connection : ''), seed = next.seed === null ? '' : `seed ${next.seed}, `;
  say('state', `${seed}${end ? 'ended' : 'going on'} at ${number(Math.round(look.time_s))} s modelled time${flaws}`);
  say('about', next.about);
  if (points.length) {
    say('accuracy', points[points.length - 1].accuracy.toFixed(4));
    say('best', 'best ' + Math.max(...points.map(each => each.accuracy)).toFixed(4));
  }
  say('steps', number(look.client_steps)); say('wanted', next.client_steps_wanted === null ? '' : 'of ' + number(next.client_steps_wanted));
  say('rate', look.steps_per_s.toFixed(2)); say('version', number(look.version));
  say('digest', end ? `${end.digests_agree ? 'digests agree' : 'DIGESTS DIFFER'}: ${(end.digest || 'none').slice(0, 12)}, ` +
    `confirmed by ${end.clients_confirmed} of ${end.clients}` : look.digests_differ ? `versions; ${look.digests_differ} DIGESTS DIFFER` :
    look.digests_compared ? `versions; ${number(look.digests_compared)} digests compared, all agree` : 'versions');
  say('staleness', look.staleness_mean_versions.toFixed(2)); say('stalest', `mean; max ${look.staleness_max_versions} versions`);
  say('duals', number(look.duals_in_flight)); say('server', number(look.server_steps) + ' server steps');
  say('refused', number(look.refusals)); say('lost', number(look.lost) + ' messages lost or dropped');
  const fleet = Object.values(look.states).reduce((sum, each) => sum + each, 0);
  say('shown', look.clients.length < fleet ? `${number(look.clients.length)} of ${number(fleet)} clients, at equal distances` : '');
  legend(look.states); curve(points); map(look.clients); table(look.clients); one();
}
function legend(states) {
  at('legend').replaceChildren(...Object.entries(states).map(([state, count]) => {
    const item = document.createElement('span'), mark = document.createElement('i');
    mark.style.background = `var(${COLOURS[state]})`; item.append(mark, `${number(count)} ${state}`); return item;
  }));
}
function curve(points) {
  const make = (tag, values, text) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text; return made;
  };
  const last = Math.max(1, ...points.map(each => each.client_steps)), parts = [];
  const x = steps => 34 + 356 * steps / last, y = accuracy => 176 - 164 * accuracy;
  for (const level of [0, .25, .5, .75, 1]) parts.push(make('line', {x1: 34, x2: 390, y1: y(level), y2: y(level), stroke: 'var(--faint)'}),
    make('text', {x: 28, y: y(level) + 4, 'text-anchor': 'end'}, level));
  parts.push(make('text', {x: 390, y: 194, 'text-anchor': 'end'}, number(last)));
  parts.push(make('polyline', {fill: 'none', stroke: 'var(--run-0)', 'stroke-width': 2, 'stroke-linejoin': 'round',
    points: points.map(each => `${x(each.client_steps).toFixed(1)},${y(each.accuracy).toFixed(1)}`).join(' ')}));
  at('curve').replaceChildren(...parts);
}
function map(clients) {
  const canvas = at('map'), width = canvas.clientWidth, scale = devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
  const fill = {}; for (const state in COLOURS) fill[state] = style.getPropertyValue(COLOURS[state]);
  side = Math.max(4, Math.min(34, Math.floor(Math.sqrt(width * 200 / Math.max(1, clients.length)))));
  columns = Math.max(1, Math.floor(width / side));
  const height = Math.max(side, Math.ceil(clients.length / columns) * side);
  canvas.width = width * scale; canvas.height = height * scale; canvas.style.height = height + 'px';
  const pen = canvas.getContext('2d'), gap = side > 8 ? 2 : 1; pen.scale(scale, scale);
  const worst = Math.max(1, ...clients.map(each => each.lag_versions));
  clients.forEach((each, place) => {
    const left = place % columns * side, top = Math.floor(place / columns) * side, inner = side - gap;
    pen.fillStyle = fill[each.state]; pen.fillRect(left, top, inner, inner);
    pen.fillStyle = style.getPropertyValue('--run-1'); // the lag, as a bar at the foot
    pen.fillRect(left, top + inner - Math.max(1, inner / 6), inner * each.lag_versions / worst, Math.max(1, inner / 6));
    if (each.name !== chosen) return;
    pen.strokeStyle = style.getPropertyValue('--ink'); pen.lineWidth = 2; pen.strokeRect(left, top, inner, inner);
  });
}
function table(clients) {
  const wanted = at('find').value.trim(), held = document.activeElement && document.activeElement.dataset.client;
  const rows = clients.filter(each => !wanted || each.name.includes(wanted)).sort((a, b) => b.lag_versions - a.lag_versions).slice(0, 50);
  at('rows').replaceChildren(...rows.map(each => {
    const row = document.createElement('tr'), button = document.createElement('button');
    button.type = 'button'; button.textContent = button.dataset.client = each.name; button.onclick = () => choose(each.name);
    [button, each.state, each.lag_versions, each.steps, each.refused, each.step].forEach(value => {
      const cell = document.createElement('td'); cell.append(value); row.append(cell); });
    if (each.name === held) setTimeout(() => button.focus({preventScroll: true})); // a rebuilt row keeps the keyboard where it was
    return row;
  }));
}
function choose(name) {
  chosen = name; history.replaceState(null, '', '#' + encodeURIComponent(name));
  one(); map(seen.look.clients); story();
}
function one() {
  const client = seen.look.clients.find(each => each.name === chosen);
  at('one').hidden = !client; if (!client) return;
  say('who', client.name);
  say('what', `${client.state}; ${client.lag_versions} versions behind; ${client.steps} steps in the log; ${client.refused} refused`);
  if (!at('story').textContent) story();
}
function story() {
  const name = chosen; say('story', 'reading');
  fetch('story?client=' + encodeURIComponent(name)).then(answer => answer.text()).then(text => { if (name === chosen) say('story', text); })
    .catch(() => say('story', 'the dashboard does not answer'));
}
at('map').onclick = event => {
  const place = Math.floor(event.offsetY / side) * columns + Math.floor(event.offsetX / side);
  if (seen && seen.look.clients[place] && event.offsetX < columns * side) choose(seen.look.clients[place].name);
};
at('again').onclick = story; at('find').oninput = () => seen && table(seen.look.clients);
addEventListener('resize', () => seen && map(seen.look.clients));
const events = new EventSource('events'); // it connects anew by itself
events.onmessage = event => show(JSON.parse(event.data));
events.onerror = () => say('state', 'the dashboard does not answer; trying again');
"""


def dashboard_page() -> str:
    """The page as text."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>hosfl dashboard</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<link rel="icon" href="data:,"><style>{stylesheet()}{_RULES}</style></head>'
        f"<body>{_BODY}<script>{_SCRIPT}</script></body></html>\n"
    )
