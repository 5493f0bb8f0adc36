// The map on its canvas: where it is looked at from, how it is drawn, and which cell a pointer is on.

const SMALLEST_CELL = 2, LARGEST_CELL = 120, FOLLOWED_CELL = 28;

class MapView {
  constructor(canvas, episode, painter) {
    Object.assign(this, { canvas, episode, painter, isFitted: true });
    this.cell = this.left = this.top = 1;
  }

  // Takes the canvas's size on the page; one canvas pixel is one pixel of the screen.
  resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
    [this.width, this.height] = [width, height];
    if (this.isFitted) this.fit();
  }

  fit() {
    const { rows, cols } = this.episode;
    this.cell = Math.min(this.width / cols, this.height / rows);
    this.left = (this.width - cols * this.cell) / 2;
    this.top = (this.height - rows * this.cell) / 2;
    this.isFitted = true;
  }

  // Zooms so that what is at (x, y) of the canvas stays there.
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const cell = Math.min(LARGEST_CELL, Math.max(SMALLEST_CELL, this.cell * factor));
    this.left = x - ((x - this.left) * cell) / this.cell;
    this.top = y - ((y - this.top) * cell) / this.cell;
    this.cell = cell;
    this.isFitted = false;
  }

  pan(right, down) {
    this.left += right;
    this.top += down;
    this.isFitted = false;
  }

  center(row, col) {
    this.cell = Math.max(this.cell, FOLLOWED_CELL);
    this.left = this.width / 2 - (col + 0.5) * this.cell;
    this.top = this.height / 2 - (row + 0.5) * this.cell;
    this.isFitted = false;
  }

  // [row, col] under a point of the canvas; null off the map.
  cellAt(x, y) {
    const row = Math.floor((y - this.top) / this.cell), col = Math.floor((x - this.left) / this.cell);
    return row >= 0 && col >= 0 && row < this.episode.rows && col < this.episode.cols ? [row, col] : null;
  }

  draw(step, selected, showsSight) {
    const { episode, cell } = this;
    const context = this.canvas.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = "#0c0f12";
    context.fillRect(0, 0, this.width, this.height);
    context.translate(this.left, this.top);
    context.fillStyle = FLOOR;
    context.fillRect(0, 0, episode.cols * cell, episode.rows * cell);
    if (cell >= 12) this.drawGrid(context);
    for (const thing of episode.standing.values()) this.drawThing(context, thing, step);
    for (const thing of episode.moving) if (!isAgent(thing)) this.drawThing(context, thing, step);
    for (const thing of episode.agents) this.drawThing(context, thing, step);
    for (const thing of episode.agents) this.drawAttack(context, thing, step);
    if (selected && isAgent(selected) && showsSight) this.drawSight(context, selected, step);
    if (selected) this.drawMark(context, selected, step);
  }

  drawGrid(context) {
    const { episode, cell } = this;
    context.strokeStyle = "#28303a";
    context.lineWidth = 1;
    context.beginPath();
    for (let row = 1; row < episode.rows; row++) {
      context.moveTo(0, row * cell);
      context.lineTo(episode.cols * cell, row * cell);
    }
    for (let col = 1; col < episode.cols; col++) {
      context.moveTo(col * cell, 0);
      context.lineTo(col * cell, episode.rows * cell);
    }
    context.stroke();
  }

  drawThing(context, thing, step) {
    const [row, col] = this.episode.place(thing, step);
    const x = col * this.cell, y = row * this.cell;
    const isVisible = x + this.left > -this.cell && y + this.top > -this.cell && x + this.left < this.width && y + this.top < this.height;
    if (!isVisible) return;
    // on a large map agents are drawn larger than their cell, to be found among the objects
    const grown = isAgent(thing) ? Math.max(this.cell, Math.min(16, 1.7 * this.cell)) : this.cell;
    const shift = (this.cell - grown) / 2;
    this.painter.paint(context, x + shift, y + shift, grown, thingState(this.episode, thing, step));
  }

  drawAttack(context, agent, step) {
    const victim = this.episode.victim(agent, step);
    if (!victim) return;
    const center = thing => this.episode.place(thing, step).map(at => (at + 0.5) * this.cell).reverse();
    strike(context, this.cell, center(agent), center(victim));
  }

  // Dims all that the agent cannot see.
  drawSight(context, agent, step) {
    const { episode, cell } = this;
    const [row, col] = episode.place(agent, step);
    const [height, width] = episode.sight;
    const top = Math.max(0, row - (height >> 1)), bottom = Math.min(episode.rows, row + (height >> 1) + 1);
    const left = Math.max(0, col - (width >> 1)), right = Math.min(episode.cols, col + (width >> 1) + 1);
    const seen = [left * cell, top * cell, (right - left) * cell, (bottom - top) * cell];
    context.beginPath();
    context.rect(0, 0, episode.cols * cell, episode.rows * cell);
    context.rect(...seen);
    context.fillStyle = "#0007";
    context.fill("evenodd");
    context.strokeStyle = "#fff";
    context.lineWidth = 1.5;
    context.setLineDash([6, 4]);
    context.strokeRect(...seen);
    context.setLineDash([]);
  }

  drawMark(context, thing, step) {
    const [row, col] = this.episode.place(thing, step);
    for (const [width, color] of [[5, "#000"], [2.5, "#ffd84d"]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.strokeRect(col * this.cell - 1, row * this.cell - 1, this.cell + 2, this.cell + 2);
    }
  }
}
