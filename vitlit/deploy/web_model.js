"use strict";

/** A Vision Transformer in plain JavaScript: pixels of a picture -> logits and attention rollout.
 *
 * Arrays are flat and row by row. Letters are those of the Python code: N tokens, D width, h heads.
 * web.py writes the settings and weights that it reads. It needs neither page nor network, so
 * that a Worker, a page and Node run the same code. */

/** x (rows, width) times weight (outputs, width) transposed, plus bias: (rows, outputs). */
function product(x, rows, width, weight, outputs, bias = null) {
  const y = new Float32Array(rows * outputs);
  // Four rows by four outputs at once: 16 products for 8 numbers read. At the edges the last row
  // or output is computed again, which is simpler than a second loop and changes nothing.
  for (let o = 0; o < outputs; o += 4) {
    const o1 = Math.min(o + 1, outputs - 1), o2 = Math.min(o + 2, outputs - 1);
    const o3 = Math.min(o + 3, outputs - 1);
    const w0 = o * width, w1 = o1 * width, w2 = o2 * width, w3 = o3 * width;
    for (let r = 0; r < rows; r += 4) {
      const r1 = Math.min(r + 1, rows - 1), r2 = Math.min(r + 2, rows - 1);
      const r3 = Math.min(r + 3, rows - 1);
      const x0 = r * width, x1 = r1 * width, x2 = r2 * width, x3 = r3 * width;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      let c0 = 0, c1 = 0, c2 = 0, c3 = 0, d0 = 0, d1 = 0, d2 = 0, d3 = 0;
      for (let i = 0; i < width; i++) {
        const u0 = weight[w0 + i], u1 = weight[w1 + i], u2 = weight[w2 + i], u3 = weight[w3 + i];
        const a = x[x0 + i], b = x[x1 + i], c = x[x2 + i], d = x[x3 + i];
        a0 += a * u0; a1 += a * u1; a2 += a * u2; a3 += a * u3;
        b0 += b * u0; b1 += b * u1; b2 += b * u2; b3 += b * u3;
        c0 += c * u0; c1 += c * u1; c2 += c * u2; c3 += c * u3;
        d0 += d * u0; d1 += d * u1; d2 += d * u2; d3 += d * u3;
      }
      const t0 = bias ? bias[o] : 0, t1 = bias ? bias[o1] : 0;
      const t2 = bias ? bias[o2] : 0, t3 = bias ? bias[o3] : 0;
      const y0 = r * outputs, y1 = r1 * outputs, y2 = r2 * outputs, y3 = r3 * outputs;
      // the last row and output are written last, so those computed again agree
      y[y0 + o] = a0 + t0; y[y0 + o1] = a1 + t1; y[y0 + o2] = a2 + t2; y[y0 + o3] = a3 + t3;
      y[y1 + o] = b0 + t0; y[y1 + o1] = b1 + t1; y[y1 + o2] = b2 + t2; y[y1 + o3] = b3 + t3;
      y[y2 + o] = c0 + t0; y[y2 + o1] = c1 + t1; y[y2 + o2] = c2 + t2; y[y2 + o3] = c3 + t3;
      y[y3 + o] = d0 + t0; y[y3 + o1] = d1 + t1; y[y3 + o2] = d2 + t2; y[y3 + o3] = d3 + t3;
    }
  }
  return y;
}

/** x (rows, columns) -> (columns, rows). */
function transposed(x, rows, columns) {
  const y = new Float32Array(x.length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) y[c * rows + r] = x[r * columns + c];
  }
  return y;
}

/** Each row of x (rows, width), divided in place into shares that sum to 1. */
function softmax(x, width) {
  for (let start = 0; start < x.length; start += width) {
    let highest = -Infinity, total = 0;
    for (let i = start; i < start + width; i++) highest = Math.max(highest, x[i]);
    for (let i = start; i < start + width; i++) total += x[i] = Math.exp(x[i] - highest);
    for (let i = start; i < start + width; i++) x[i] /= total;
  }
  return x;
}

/** erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t +
    0.254829592) * t;
  return Math.sign(x) * (1 - p * Math.exp(-x * x));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const ACTS = {
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  quick_gelu: (x) => x * sigmoid(1.702 * x),
};

/** The number nearest to x, halves to the even one, as Python rounds. */
function rounded(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 ? low + 1 : low;
}

/** For each of `to` pixels: the first of `from` pixels that it reads, and their shares.
 *
 * Antialiased resampling as in Pillow and torch: the filter is as wide as the pixel it makes. */
function taps(from, to, kind) {
  const cubic = (t) => t < 1 ? (1.5 * t - 2.5) * t * t + 1 :
    t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
  const filter = kind === "bicubic" ? cubic : (t) => Math.max(0, 1 - t);
  const scale = from / to, stretch = Math.max(scale, 1);
  const support = (kind === "bicubic" ? 2 : 1) * stretch;
  return Array.from({ length: to }, (_, i) => {
    const centre = scale * (i + 0.5);
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const shares = Array.from({ length: end - first },
      (_, j) => filter(Math.abs(j + first - centre + 0.5) / stretch));
    const total = shares.reduce((sum, share) => sum + share, 0);
    return { first, shares: shares.map((share) => share / total) };
  });
}

/** One plane (rows, columns) -> (height, width); in 8 bits each of the two passes is rounded. */
function resized(plane, [rows, columns], [height, width], kind, inBytes) {
  const kept = inBytes ? (x) => Math.min(255, Math.max(0, Math.floor(x + 0.5))) : (x) => x;
  let x = plane;
  if (columns !== width) {
    const wide = new Float32Array(rows * width);
    taps(columns, width, kind).forEach(({ first, shares }, c) => {
      for (let r = 0; r < rows; r++) {
        let sum = 0;
        for (let i = 0; i < shares.length; i++) sum += shares[i] * x[r * columns + first + i];
        wide[r * width + c] = kept(sum);
      }
    });
    x = wide;
  }
  if (rows === height) return x;
  const y = new Float32Array(height * width);
  taps(rows, height, kind).forEach(({ first, shares }, r) => {
    for (let c = 0; c < width; c++) {
      let sum = 0;
      for (let i = 0; i < shares.length; i++) sum += shares[i] * x[(first + i) * width + c];
      y[r * width + c] = kept(sum);
    }
  });
  return y;
}

/** A part of a plane with `columns` columns. */
function cut(plane, columns, top, left, height, width) {
  const y = new Float32Array(height * width);
  for (let r = 0; r < height; r++) {
    const start = (top + r) * columns + left;
    y.set(plane.subarray(start, start + width), r * width);
  }
  return y;
}

/** The size that a picture is resized to, as images/framing.py computes it. */
function fittedSize([rows, columns], [height, width], framing) {
  const [high, wide] = [height, width].map((side) =>
    Math.floor(side / framing.crop_fraction + 1e-6));
  if (framing.fit === "squash") return [high, wide];
  const fitsHeight = rows * wide <= columns * high;
  if (framing.fit === "letterbox") {
    return fitsHeight ? [Math.max(1, rounded(rows * wide / columns)), wide] :
      [high, Math.max(1, rounded(columns * high / rows))];
  }
  return fitsHeight ? [high, Math.floor(columns * high / rows)] :
    [Math.floor(rows * wide / columns), wide];
}

/** A plane with rows and columns of `fill` around it, where it is smaller than the size. */
function padded(plane, [rows, columns], [height, width], fill) {
  const high = Math.max(rows, height), wide = Math.max(columns, width);
  if (high === rows && wide === columns) return plane;
  const y = new Float32Array(high * wide).fill(fill);
  const top = Math.floor((high - rows) / 2), left = Math.floor((wide - columns) / 2);
  for (let r = 0; r < rows; r++) {
    y.set(plane.subarray(r * columns, (r + 1) * columns), (top + r) * wide + left);
  }
  return y;
}

/** Grey or three colour planes of RGBA bytes, on white where they are transparent. */
function planesOf(data, channels) {
  const count = data.length / 4;
  const planes = Array.from({ length: channels }, () => new Float32Array(count));
  const colour = [0, 0, 0];
  for (let i = 0; i < count; i++) {
    const alpha = data[4 * i + 3] / 255;
    for (let c = 0; c < 3; c++) {
      const value = data[4 * i + c];
      colour[c] = alpha === 1 ? value : Math.round(255 - alpha * (255 - value));
    }
    if (channels === 3) for (let c = 0; c < 3; c++) planes[c][i] = colour[c];
    else { // as Pillow
      planes[0][i] = (19595 * colour[0] + 38470 * colour[1] + 7471 * colour[2] + 32768) >> 16;
    }
  }
  return planes;
}

const MAX_SURPLUS = 32; // of images/image_io.py, for panoramas

/** A picture {data: RGBA, width, height} as `vitlit predict` fits it: planes of 0 to 255. */
function framed(picture, settings) {
  const { framing, source_size: size } = settings;
  const [height, width] = size;
  let shape = [picture.height, picture.width];
  let planes = planesOf(picture.data, settings.arguments.in_chans);
  if (framing.fit === "cover") { // the middle of what is far longer than the input
    const [rows, columns] = shape;
    const top = Math.floor(Math.max(0,
      rows - MAX_SURPLUS * Math.ceil(columns * height / width)) / 2);
    const left = Math.floor(Math.max(0,
      columns - MAX_SURPLUS * Math.ceil(rows * width / height)) / 2);
    shape = [rows - 2 * top, columns - 2 * left];
    if (top || left) planes = planes.map((plane) => cut(plane, columns, top, left, ...shape));
  }
  const fitted = fittedSize(shape, size, framing);
  const [high, wide] = fitted.map((side, axis) => Math.max(side, size[axis]));
  const top = rounded((high - height) / 2), left = rounded((wide - width) / 2);
  return planes.map((plane, channel) => {
    const small = resized(plane, shape, fitted, framing.interpolation, true);
    const fill = framing.fill[channel % framing.fill.length];
    return cut(padded(small, fitted, size, fill), wide, top, left, height, width);
  });
}

/** Planes of 0 to 255 of the source's size -> the model's normalised input (C, H, W). */
function normalised(planes, settings) {
  const { source_size: from, img_size: to, mean, std } = settings;
  const x = new Float32Array(planes.length * to[0] * to[1]);
  planes.forEach((plane, c) => {
    const fitting = resized(plane, from, to, "bilinear", false);
    for (let i = 0; i < fitting.length; i++) {
      x[c * fitting.length + i] = (fitting[i] / 255 - mean[c]) / std[c];
    }
  });
  return x;
}

/** Bytes -> numbers: all first bytes of the numbers come first, then all second ones, and so on. */
function numbersOf(bytes, kind) {
  const size = kind === "float16" ? 2 : 4;
  const count = bytes.length / size;
  const view = new DataView(new ArrayBuffer(4));
  const y = new Float32Array(count);
  if (size === 2) {
    const value = Float32Array.from({ length: 65536 }, (_, bits) => {
      const exponent = (bits >> 10) & 31, fraction = bits & 1023;
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      return bits >> 15 ? -size : size;
    });
    for (let i = 0; i < count; i++) y[i] = value[bytes[i] | (bytes[count + i] << 8)];
    return y;
  }
  for (let i = 0; i < count; i++) {
    for (let k = 0; k < 4; k++) view.setUint8(k, bytes[k * count + i]);
    y[i] = view.getFloat32(0, true);
  }
  return y;
}

/** The parameters by name, from deflated bytes in base64. */
async function unpack(text, settings) {
  const packed = atob(text.trim());
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const all = numbersOf(new Uint8Array(await new Response(stream).arrayBuffer()), settings.numbers);
  const weights = {};
  let start = 0;
  for (const [name, count] of settings.tensors) {
    weights[name] = all.subarray(start, start + count);
    start += count;
  }
  return weights;
}

class Model {
  constructor(settings, weights) {
    this.settings = settings;
    this.told = settings.arguments;
    this.weights = weights;
    const { patch_size: size } = this.told;
    this.size = settings.img_size;
    this.grid = this.size.map((side) => side / size);
    this.patches = this.grid[0] * this.grid[1];
    this.prefix = Number(this.told.class_token) + this.told.reg_tokens;
    this.width = this.told.embed_dim;
  }

  /** x (rows, width) through the linear layer of that name. */
  linear(name, x, width) {
    const weight = this.weights[`${name}.weight`];
    return product(x, x.length / width, width, weight, weight.length / width,
      this.weights[`${name}.bias`]);
  }

  /** Each row normalised by the norm of that name; where there is none, x itself. */
  norm(name, x) {
    const scale = this.weights[`${name}.weight`], shift = this.weights[`${name}.bias`];
    if (!scale) return x;
    const width = scale.length, isLayer = this.told.norm === "layer" || name === "patch_embed.norm" &&
      this.told.patch_embed === "shifted";
    const y = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += width) {
      let mean = 0, square = 0;
      if (isLayer) {
        for (let i = 0; i < width; i++) mean += x[start + i];
        mean /= width;
      }
      for (let i = 0; i < width; i++) square += (x[start + i] - mean) ** 2;
      const factor = 1 / Math.sqrt(square / width + this.told.norm_eps);
      for (let i = 0; i < width; i++) {
        y[start + i] = (x[start + i] - mean) * factor * scale[i] + (shift ? shift[i] : 0);
      }
    }
    return y;
  }

  /** Planes (C, H, W) cut into patches (N, C*P*P); patch_size is P. */
  cutPatches(x, channels) {
    const [height, width] = this.size, [rows, columns] = this.grid;
    const side = this.told.patch_size;
    const y = new Float32Array(x.length);
    let place = 0;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        for (let channel = 0; channel < channels; channel++) {
          for (let i = 0; i < side; i++) {
            const start = (channel * height + r * side + i) * width + c * side;
            y.set(x.subarray(start, start + side), place);
            place += side;
          }
        }
      }
    }
    return y;
  }

  /** The image and four copies, moved by half a patch along the diagonals (SPT). */
  shifted(x, channels) {
    const [height, width] = this.size, half = this.told.patch_size >> 1;
    const moves = [[0, 0], [-half, -half], [-half, half], [half, -half], [half, half]];
    const y = new Float32Array(5 * x.length);
    moves.forEach(([down, right], copy) => {
      for (let plane = 0; plane < channels; plane++) {
        for (let r = 0; r < height; r++) {
          for (let c = 0; c < width; c++) {
            const row = r + down, column = c + right;
            if (row < 0 || column < 0 || row >= height || column >= width) continue;
            y[((copy * channels + plane) * height + r) * width + c] =
              x[(plane * height + row) * width + column];
          }
        }
      }
    });
    return y;
  }

  /** A 3x3 convolution with a margin of zeros: planes (C, rows, columns) -> (rows*columns, O). */
  convolution(x, channels, rows, columns, weight) {
    const around = new Float32Array(rows * columns * channels * 9);
    let place = 0;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        for (let channel = 0; channel < channels; channel++) {
          for (let i = r - 1; i <= r + 1; i++) {
            for (let j = c - 1; j <= c + 1; j++, place++) {
              if (i < 0 || j < 0 || i >= rows || j >= columns) continue;
              around[place] = x[(channel * rows + i) * columns + j];
            }
          }
        }
      }
    }
    const width = 9 * channels;
    return product(around, rows * columns, width, weight, weight.length / width);
  }

  /** GroupNorm of planes (C, pixels), in place. */
  groupNorm(name, x, channels) {
    const scale = this.weights[`${name}.weight`], shift = this.weights[`${name}.bias`];
    const pixels = x.length / channels;
    let groups = 8; // STEM_GROUPS of model/patch_embed.py
    while (channels % groups) groups /= 2;
    const length = x.length / groups;
    for (let start = 0; start < x.length; start += length) {
      let mean = 0, square = 0;
      for (let i = start; i < start + length; i++) mean += x[i];
      mean /= length;
      for (let i = start; i < start + length; i++) square += (x[i] - mean) ** 2;
      const factor = 1 / Math.sqrt(square / length + 1e-5);
      for (let i = start; i < start + length; i++) {
        const channel = Math.floor(i / pixels);
        x[i] = (x[i] - mean) * factor * scale[channel] + shift[channel];
      }
    }
  }

  /** Planes (C, pixels), changed in place, each normalised by what training kept for its channel. */
  batchNorm(name, x, channels) {
    const [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map(
      (part) => this.weights[`${name}.${part}`]);
    const pixels = x.length / channels;
    for (let i = 0; i < x.length; i++) {
      const channel = Math.floor(i / pixels);
      const factor = scale[channel] / Math.sqrt(variance[channel] + 1e-5);
      x[i] = (x[i] - mean[channel]) * factor + shift[channel];
    }
  }

  /** Planes (C, H, W) -> tokens (N, D) by stages of 3x3 convolutions that halve the image (CCT). */
  stem(x) {
    let [rows, columns] = this.size, channels = this.told.in_chans;
    for (let i = 0; this.weights[`patch_embed.convs.${i}.weight`]; i++) {
      const weight = this.weights[`patch_embed.convs.${i}.weight`];
      const made = this.convolution(x, channels, rows, columns, weight);
      const count = made.length / (rows * columns);
      x = transposed(made, rows * columns, count);
      channels = count;
      if (this.told.stem_convs > 1) {
        const norm = `patch_embed.norms.${i}`;
        if (this.told.stem_norm === "batch") this.batchNorm(norm, x, channels);
        else this.groupNorm(norm, x, channels);
      }
      for (let j = 0; j < x.length; j++) x[j] = Math.max(0, x[j]);
      if ((i + 1) % this.told.stem_convs === 0) {
        x = halved(x, channels, rows, columns);
        [rows, columns] = [Math.ceil(rows / 2), Math.ceil(columns / 2)];
      }
    }
    return transposed(x, channels, rows * columns);
  }

  /** Planes (C, H, W) -> tokens of the patches (N, D). */
  embedPatches(x) {
    const { patch_embed: kind, in_chans: channels, patch_size: side } = this.told;
    const width = channels * side * side;
    if (kind === "conv_stem") return this.stem(x);
    if (kind === "shifted") {
      const patches = this.cutPatches(this.shifted(x, channels), 5 * channels);
      return this.linear("patch_embed.proj", this.norm("patch_embed.norm", patches), 5 * width);
    }
    const tokens = this.linear("patch_embed.proj", this.cutPatches(x, channels), width);
    return this.norm("patch_embed.norm", tokens);
  }

  /** Planes (C, H, W) -> tokens (N, D): those before the patches, then the patches that are kept. */
  embed(x, kept) {
    const width = this.width;
    const y = new Float32Array((this.prefix + kept.length) * width);
    const before = [this.weights.cls_token, this.weights.reg_token].filter(Boolean);
    let place = 0;
    for (const tokens of before) {
      y.set(tokens, place);
      place += tokens.length;
    }
    const patches = this.embedPatches(x);
    kept.forEach((patch, i) => y.set(patches.subarray(patch * width, (patch + 1) * width),
      (this.prefix + i) * width));
    const positions = this.weights.pos_embed;
    for (let token = 0; positions && token < this.prefix + kept.length; token++) {
      const row = token < this.prefix ? token : this.prefix + kept[token - this.prefix];
      for (let i = 0; i < width; i++) y[token * width + i] += positions[row * width + i];
    }
    return this.norm("norm_pre", y);
  }

  /** Self-attention of tokens x (N, D) in a block: the output, and the mean of the heads' maps. */
  attend(name, x) {
    const width = this.width, heads = this.told.num_heads, d = width / heads;
    const count = x.length / width;
    const qkv = this.linear(`${name}.qkv`, x, width);
    const sharpness = this.weights[`${name}.sharpness`]; // of LSA
    const mixed = new Float32Array(x.length), mean = new Float32Array(count * count);
    const part = (which, head) => {
      const y = new Float32Array(count * d);
      for (let token = 0; token < count; token++) {
        const start = (3 * token + which) * width + head * d;
        y.set(qkv.subarray(start, start + d), token * d);
      }
      return y;
    };
    for (let head = 0; head < heads; head++) {
      const q = this.norm(`${name}.q_norm`, part(0, head));
      const k = this.norm(`${name}.k_norm`, part(1, head));
      const scale = sharpness ? sharpness[head] : d ** -0.5;
      for (let i = 0; i < q.length; i++) q[i] *= scale;
      const map = product(q, count, d, k, count);
      // with LSA no token attends to itself, unless it is alone
      for (let i = 0; sharpness && count > 1 && i < count; i++) map[i * count + i] = -Infinity;
      softmax(map, count);
      for (let i = 0; i < map.length; i++) mean[i] += map[i] / heads;
      const values = transposed(part(2, head), count, d);
      const found = product(map, count, count, values, d);
      for (let token = 0; token < count; token++) {
        mixed.set(found.subarray(token * d, (token + 1) * d), token * width + head * d);
      }
    }
    return [this.linear(`${name}.proj`, this.norm(`${name}.norm`, mixed), width), mean];
  }

  mlp(name, x) {
    const inner = this.linear(`${name}.fc1`, x, this.width);
    const hidden = this.weights[`${name}.fc2.weight`].length / this.width;
    let y = inner;
    if (this.told.mlp === "swiglu") {
      y = new Float32Array(inner.length / 2);
      for (let i = 0; i < y.length; i++) {
        const start = Math.floor(i / hidden) * 2 * hidden + i % hidden;
        y[i] = inner[start] * sigmoid(inner[start]) * inner[start + hidden];
      }
    } else {
      const act = ACTS[this.told.act];
      for (let i = 0; i < y.length; i++) y[i] = act(y[i]);
    }
    return this.linear(`${name}.fc2`, this.norm(`${name}.norm`, y), hidden);
  }

  /** x plus a branch, times the factors of LayerScale where there are any. */
  add(x, branch, name) {
    const gamma = this.weights[`${name}.gamma`];
    for (let i = 0; i < x.length; i++) x[i] += gamma ? branch[i] * gamma[i % this.width] : branch[i];
  }

  /** The share of each token in the pooled feature: (N). */
  shares(tokens) {
    const count = tokens.length / this.width, pool = this.told.global_pool;
    const y = new Float32Array(count);
    if (pool === "token") y[0] = 1;
    else if (pool === "avg") y.fill(1 / (count - this.prefix), this.prefix);
    else {
      const patches = tokens.subarray(this.prefix * this.width);
      const scores = this.linear("seq_pool.score", patches, this.width);
      y.set(softmax(scores, scores.length), this.prefix);
    }
    return y;
  }

  /** Normalised planes (C, H, W), and the numbers of the patches that the model may see.
   *
   * Returns logits (K), probabilities (K), and for each patch of the grid the share of the output
   * that comes from it by attention rollout (Abnar and Zuidema, 2020): 0 for patches left out. */
  run(x, kept = Array.from({ length: this.patches }, (_, i) => i)) {
    const tokens = this.embed(x, kept), maps = [];
    const count = this.prefix + kept.length;
    for (let block = 0; block < this.told.depth; block++) {
      const name = `blocks.${block}`;
      const [attended, map] = this.attend(`${name}.attn`, this.norm(`${name}.norm1`, tokens));
      maps.push(map);
      this.add(tokens, attended, `${name}.ls1`);
      this.add(tokens, this.mlp(`${name}.mlp`, this.norm(`${name}.norm2`, tokens)), `${name}.ls2`);
    }
    const last = this.norm("norm", tokens);
    const shares = this.shares(last);
    const pooled = this.norm("fc_norm", product(shares, 1, count,
      transposed(last, count, this.width), this.width));
    const logits = this.linear("head", pooled, this.width);
    // From the pooling back to the image, so that a row is multiplied and not a matrix.
    let flow = shares;
    for (const map of maps.reverse()) {
      const back = product(flow, 1, count, transposed(map, count, count), count);
      flow = flow.map((share, i) => (share + back[i]) / 2);
    }
    const rollout = new Float32Array(this.patches);
    kept.forEach((patch, i) => { rollout[patch] = flow[this.prefix + i]; });
    return { logits, probabilities: softmax(logits.slice(), logits.length), rollout };
  }

  /** A picture {data: RGBA bytes, width, height} -> what run gives, and the planes that it saw.
   *
   * Without a picture it is the one before, of which other patches are kept. */
  look(picture, kept) {
    if (picture) {
      this.planes = framed(picture, this.settings);
      this.input = normalised(this.planes, this.settings);
    }
    return { ...this.run(this.input, kept), planes: this.planes };
  }

  /** The largest difference of this machine's logits from those of PyTorch for the same noise. */
  check() {
    const { source_size: size, check } = this.settings;
    let state = check.seed;
    const planes = Array.from({ length: this.told.in_chans }, () =>
      Float32Array.from({ length: size[0] * size[1] }, () => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // the numbers of web.py
        return state >>> 24;
      }));
    const { logits } = this.run(normalised(planes, this.settings));
    return check.logits.reduce((most, wanted, i) => Math.max(most, Math.abs(wanted - logits[i])), 0);
  }
}

/** 3x3 max pooling with a step of 2: planes (C, rows, columns) -> (C, rows/2, columns/2). */
function halved(x, channels, rows, columns) {
  const high = Math.ceil(rows / 2), wide = Math.ceil(columns / 2);
  const y = new Float32Array(channels * high * wide).fill(-Infinity);
  for (let channel = 0; channel < channels; channel++) {
    for (let r = 0; r < high; r++) {
      for (let c = 0; c < wide; c++) {
        const place = (channel * high + r) * wide + c;
        for (let i = Math.max(0, 2 * r - 1); i <= Math.min(rows - 1, 2 * r + 1); i++) {
          for (let j = Math.max(0, 2 * c - 1); j <= Math.min(columns - 1, 2 * c + 1); j++) {
            y[place] = Math.max(y[place], x[(channel * rows + i) * columns + j]);
          }
        }
      }
    }
  }
  return y;
}

const openModel = async (text, settings) => new Model(settings, await unpack(text, settings));

// In a Worker: the first message brings the model, each other one a picture.
if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope) {
  let model = null;
  self.onmessage = async ({ data }) => {
    try {
      if (data.settings) {
        model = await openModel(data.text, data.settings);
        self.postMessage({ ready: true, difference: model.check() });
        return;
      }
      const start = performance.now();
      const found = model.look(data.picture, data.kept);
      self.postMessage({ number: data.number, ...found, time: performance.now() - start });
    } catch (error) {
      self.postMessage({ number: data.number, error: String(error) });
    }
  };
}

if (typeof module !== "undefined") module.exports = { openModel, framed, normalised };
