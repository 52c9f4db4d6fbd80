import * as ort from "./ort.wasm.min.mjs";

const find = (id) => document.getElementById(id);

/** Standard normal numbers from a seed: mulberry32 and the Box-Muller transform. */
export function normal(seed, length) {
  const uniform = () => { // in (0, 1)
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), seed | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (((x ^ (x >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length }, () =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** Adds a canvas with one image of floats in [-1, 1], as `(height, width, 3)`. */
function show(image, height, width) {
  const canvas = Object.assign(document.createElement("canvas"), { height, width });
  const pixels = new ImageData(width, height); // rounds, and keeps values in [0, 255]
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = (image[3 * i + c] + 1) * 127.5;
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  find("pictures").append(canvas);
}

async function draw(session, { shape, classes }) {
  const count = find("count").valueAsNumber, size = shape[0] * shape[1] * shape[2];
  const noise = normal(find("seed").valueAsNumber, count * size);
  const label = classes.indexOf(`${find("colour").value} ${find("petals").value}`);
  const begin = performance.now();
  find("pictures").replaceChildren();
  find("progress").max = count;
  for (let i = 0; i < count; i++) {
    find("progress").value = i;
    find("status").textContent = `Drawing image ${i + 1} of ${count} …`;
    await new Promise((resolve) => setTimeout(resolve)); // lets the browser show it
    const part = noise.subarray(i * size, (i + 1) * size);
    const outputs = await session.run({
      noise: new ort.Tensor("float32", part, [1, ...shape]),
      label: new ort.Tensor("int32", [label], [1]),
      guidance_scale: new ort.Tensor("float32", [find("guidance").valueAsNumber], [1]),
    });
    show(outputs[session.outputNames[0]].data, shape[0], shape[1]);
  }
  find("progress").value = count;
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  find("status").textContent = `${count} images in ${seconds} s`;
}

async function start() {
  ort.env.wasm.numThreads = 1; // more need headers that not every host sends
  const model = await (await fetch("model.json")).json();
  const words = model.classes.map((name) => name.split(" "));
  for (const [i, id] of ["colour", "petals"].entries()) {
    for (const word of new Set(words.map((pair) => pair[i]))) find(id).add(new Option(word));
  }
  const session = await ort.InferenceSession.create("flowers.onnx");
  const button = find("draw");
  document.forms[0].addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    await draw(session, model).catch(report);
    button.disabled = false;
  });
  button.disabled = false;
  find("status").textContent = "The model is loaded.";
}

function report(error) {
  console.error(error);
  find("status").textContent = `This failed: ${error.message}`;
}

start().catch(report);
