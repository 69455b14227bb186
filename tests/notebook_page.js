// What the browser tests do in a JupyterLab page: a notebook opened through the application's own commands, read
// from its models, and looked at as elements where the eye matters. window.notebooks has what is open, by path.
window.notebooks = {};

window.openNotebook = async (path) => {
  const panel = await window.jupyterapp.commands.execute("docmanager:open", { path, factory: "Notebook" });
  await panel.revealed;
  await panel.context.ready;
  await panel.sessionContext.ready;
  window.notebooks[path] = actionsOn(window.jupyterapp, panel);
};

function actionsOn(app, panel) {
  const CONTROLS = {
    slider: ".widget-slider .noUi-handle",
    list: ".widget-dropdown select",
    tick: ".widget-checkbox input",
    button: "button.widget-button",
    play: ".widget-play button:first-child",
  };
  const WORDS = ".widget-html-content, .jp-RenderedText, .jp-RenderedHTMLCommon, .widget-label";
  const BROKEN = ".jupyter-widgets-error-widget, .jupyter-widgets-disconnected";
  let ended = true; // the run of all cells
  const raised = []; // by callbacks of widgets: JupyterLab shows those in its log alone

  panel.sessionContext.iopubMessage.connect((_, { header, parent_header, content }) => {
    if (header.msg_type === "error" && parent_header.msg_type === "comm_msg")
      raised.push([-1, `${content.ename}: ${content.evalue}`]);
  });

  const cells = () => panel.content.widgets;
  const codeCells = () => cells().filter((cell) => cell.model.type === "code");
  const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const controlsOf = (cell, kind) => [...cells()[cell].node.querySelectorAll(CONTROLS[kind])].filter(shown);
  const frames = (count) =>
    new Promise((done) => {
      const next = () => (count-- > 0 ? requestAnimationFrame(next) : done());
      next();
    });

  // In front of other notebooks: only there its elements can be seen.
  async function show() {
    app.shell.activateById(panel.id);
    await frames(2);
  }

  async function close() {
    await panel.sessionContext.shutdown();
    panel.context.model.dirty = false; // asks no question
    panel.dispose();
  }

  function runAll() {
    for (const cell of codeCells()) cell.model.clearExecution();
    ended = false;
    app.commands.execute("notebook:run-all-cells").finally(() => (ended = true));
  }

  const kernel = () => panel.sessionContext.session?.kernel?.status ?? "none";
  const idle = () => ended && kernel() === "idle";

  const notRun = () =>
    codeCells()
      .filter((cell) => cell.model.sharedModel.getSource().trim() && !cell.model.executionCount)
      .map((cell) => cells().indexOf(cell));

  // [cell, what]: tracebacks, widgets that broke, and for the callbacks of widgets -1 instead of a cell.
  function errors() {
    const found = [];
    cells().forEach((cell, number) => {
      if (cell.model.type !== "code") return;
      for (const output of cell.model.outputs.toJSON())
        if (output.output_type === "error") found.push([number, `${output.ename}: ${output.evalue}`]);
      for (const element of cell.node.querySelectorAll(BROKEN))
        found.push([number, element.innerText.trim().slice(-500)]);
    });
    return [...found, ...raised];
  }

  // One after another: in a cell, kind after kind, of a kind as they come.
  function controls() {
    const found = [];
    cells().forEach((_, cell) => {
      for (const kind of Object.keys(CONTROLS))
        controlsOf(cell, kind).forEach((element, nth) => found.push({ cell, kind, nth, ...about(element, kind) }));
    });
    return found;
  }

  function about(element, kind) {
    const box = element.closest(".widget-inline-hbox, .widget-checkbox");
    const label = (kind === "button" ? element : box).innerText.trim().split("\n")[0] || kind;
    if (kind === "slider") {
      const value = Number(element.getAttribute("aria-valuenow"));
      return { label, value, atEnd: value >= Number(element.getAttribute("aria-valuemax")) };
    }
    if (kind === "list")
      return { label, value: element.selectedIndex, atEnd: element.selectedIndex === element.options.length - 1 };
    if (kind === "tick") return { label, value: element.checked, atEnd: false };
    return { label, value: !element.disabled, atEnd: false };
  }

  const control = (cell, kind, nth) => about(controlsOf(cell, kind)[nth], kind);

  function focus(cell, kind, nth) {
    const element = controlsOf(cell, kind)[nth];
    element.scrollIntoView({ block: "center" });
    element.focus();
    return document.activeElement === element;
  }

  // Whether a list is unfolded.
  const unfolded = (cell, kind, nth) => controlsOf(cell, kind)[nth].matches(":open");

  // Pixels of all pictures of a cell as digests, and its words.
  async function look(cell) {
    const outputs = cells()[cell].node.querySelector(".jp-Cell-outputArea");
    const pictures = await Promise.all([...outputs.querySelectorAll("img")].map(digest));
    const words = [...outputs.querySelectorAll(WORDS)].map((element) => element.innerText).join("\n");
    return { pictures, words };
  }

  // An image that is given other bytes just now fails to decode the old ones.
  async function decoded(picture) {
    for (let tries = 20; tries > 0; tries--)
      try {
        return await picture.decode();
      } catch (error) {
        if (tries === 1) throw error;
        await new Promise((done) => setTimeout(done, 50));
      }
  }

  async function digest(picture) {
    await decoded(picture);
    const bytes = await crypto.subtle.digest("SHA-256", pixels(picture).data);
    return [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  function pixels(picture) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  // Cells whose pictures let the page's colour through: black axes would vanish in a dark theme.
  async function seeThrough() {
    const found = [];
    for (const [number, cell] of cells().entries())
      for (const picture of cell.node.querySelectorAll("img")) {
        await decoded(picture);
        const { data } = pixels(picture);
        for (let alpha = 3; alpha < data.length; alpha += 4)
          if (data[alpha] < 255) {
            found.push(number);
            break;
          }
      }
    return found;
  }

  const source = (cell) => cells()[cell].model.sharedModel.getSource();
  const count = (cell) => cells()[cell].model.executionCount;

  // A cell forgets what it put out, and the keyboard's focus goes into its editor.
  function edit(cell) {
    cells()[cell].model.clearExecution();
    panel.content.activeCellIndex = cell;
    panel.content.mode = "edit";
    cells()[cell].node.scrollIntoView({ block: "center" });
    cells()[cell].editor.focus();
  }

  function printed(cell) {
    const texts = cells()[cell].model.outputs.toJSON().map((out) => out.text ?? out.data?.["text/plain"] ?? "");
    return texts.map((text) => (Array.isArray(text) ? text.join("") : text)).join("");
  }

  const setTheme = (name) => app.commands.execute("apputils:change-theme", { theme: name });

  // The theme whose style sheet is loaded, which is a while after the command; then all is drawn anew.
  async function theme() {
    await frames(3);
    return document.body.dataset.jpThemeName;
  }

  // The rectangle of a cell on the screen, for a picture of it.
  async function place(cell) {
    const { node } = cells()[cell];
    node.scrollIntoView({ block: "start" });
    await frames(2);
    const { x, y, width, height } = node.getBoundingClientRect();
    return { x, y, width, height };
  }

  const outer = () => panel.content.node.querySelector(".jp-WindowedPanel-outer") ?? panel.content.node;

  // How high the page must be for all cells to be on it.
  const height = () => outer().scrollHeight + outer().getBoundingClientRect().top + 40;

  // After the page got another size: laying it out again takes a few frames, and would fold an open list.
  const settle = () => frames(10);

  async function top() {
    outer().scrollTop = 0;
    await frames(5);
  }

  const rgba = (text) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const known = new Map();
  const colour = (text) => known.get(text) ?? known.set(text, rgba(text)).get(text);
  const over = (upper, lower) => [0, 1, 2].map((i) => upper[3] * upper[i] + (1 - upper[3]) * lower[i]).concat(1);
  const light = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([red, green, blue]) => 0.2126 * light(red) + 0.7152 * light(green) + 0.0722 * light(blue);

  function ground(element) {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const layer = colour(getComputedStyle(one).backgroundColor);
      layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reduceRight((lower, upper) => over(upper, lower), [255, 255, 255, 1]);
  }

  // The contrast of WCAG 2.1, 1 to 21, of every kind of text: [kind, ratio, cell, words], lowest of a kind.
  function contrasts() {
    const kinds = {
      markdown: ".jp-RenderedMarkdown",
      code: ".cm-content, .jp-RenderedMarkdown pre",
      table: ".jp-RenderedHTML table",
      print: ".jp-OutputArea-output .jp-RenderedText, .jp-OutputArea-output.jp-RenderedText",
      widget: ".jupyter-widgets",
    };
    const found = [];
    for (const [kind, selector] of Object.entries(kinds)) {
      let lowest = null;
      cells().forEach((cell, number) => {
        for (const box of cell.node.querySelectorAll(selector)) {
          const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
          while (walk.nextNode()) {
            const words = walk.currentNode.textContent.trim();
            const element = walk.currentNode.parentElement;
            if (!words || !shown(element) || element.closest("mjx-assistive-mml, style, :disabled")) continue;
            if (kind === "markdown" && element.closest("pre")) continue;
            const lower = ground(element);
            const text = over(colour(getComputedStyle(element).color), lower);
            const [dark, bright] = [luminance(text), luminance(lower)].sort((a, b) => a - b);
            const ratio = (bright + 0.05) / (dark + 0.05);
            if (lowest === null || ratio < lowest[1]) lowest = [kind, ratio, number, words.slice(0, 60)];
          }
        }
      });
      if (lowest !== null) found.push(lowest);
    }
    return found;
  }

  return {
    ...{ show, close, runAll, kernel, idle, notRun, errors, controls, control, focus, unfolded, look, seeThrough },
    ...{ source, count, edit, printed, setTheme, theme, place, height, settle, top, contrasts },
  };
}
