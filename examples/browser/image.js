// Image files to pixels, decoded and stretched as sfsc does it: what a canvas makes of them is not the same.

const BAND = 256; // rows that are read at once: browsers bound the size of a canvas, above all on phones

/**
 * Decode an image file and stretch it to [height, width]: a Uint8Array of height x width x 3 RGB.
 *
 * Transparency is laid on white, the orientation of a photograph is applied, colour profiles are not.
 */
export async function pixelsOf(file, [height, width]) {
  let image;
  try {
    image = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name} is not an image that this browser can read.`);
  }
  const shrinks = height <= image.height && width <= image.width;
  const rows = stretchAcross(image, taps(image.width, width, shrinks));
  const pixels = stretchDown(rows, width, taps(image.height, height, shrinks));
  image.close();
  return pixels;
}

// For each of `to` places in a row of `from`: [the first place that counts, the weights of it and of those that
// follow]. These are the weights of OpenCV's INTER_AREA and, where something grows, INTER_CUBIC.
function taps(from, to, shrinks) {
  const scale = from / to;
  return Array.from({ length: to }, (_, place) => {
    const [start, end] = [place * scale, (place + 1) * scale];
    if (!shrinks) {
      const centre = (start + end - 1) / 2;
      const first = Math.floor(centre) - 1;
      return [first, [0, 1, 2, 3].map((step) => cubic(Math.abs(centre - first - step)))];
    }
    const first = Math.floor(start);
    const covered = (step) => Math.min(end, first + step + 1) - Math.max(start, first + step);
    return [first, Array.from({ length: Math.ceil(end) - first }, (_, step) => covered(step) / scale)];
  });
}

function cubic(distance) {
  if (distance <= 1) return (1.25 * distance - 2.25) * distance ** 2 + 1;
  return -0.75 * (((distance - 5) * distance + 8) * distance - 4);
}

const within = (place, count) => Math.min(Math.max(place, 0), count - 1); // beyond its edge, an image repeats it

// The rows of an image, each stretched: a Float32Array of rows x across.length x 3.
function stretchAcross(image, across) {
  const { width, height } = image; // looked up in the innermost loop, they would take most of the time
  const stretched = new Float32Array(height * across.length * 3);
  const canvas = Object.assign(document.createElement("canvas"), { width, height: BAND });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  let at = 0;
  for (let top = 0; top < height; top += BAND) {
    context.fillRect(0, 0, width, BAND);
    context.drawImage(image, 0, -top);
    const rows = Math.min(BAND, height - top);
    const { data } = context.getImageData(0, 0, width, rows);
    for (let row = 0; row < rows; row++) {
      for (const [first, weights] of across) {
        weights.forEach((weight, step) => {
          const from = 4 * (row * width + within(first + step, width));
          for (let colour = 0; colour < 3; colour++) stretched[at + colour] += weight * data[from + colour];
        });
        at += 3;
      }
    }
  }
  return stretched;
}

// The columns of such rows, stretched: a Uint8Array of down.length x width x 3.
function stretchDown(rows, width, down) {
  const line = 3 * width;
  const last = rows.length / line;
  const stretched = new Float32Array(down.length * line);
  down.forEach(([first, weights], row) => {
    weights.forEach((weight, step) => {
      const from = line * within(first + step, last);
      for (let place = 0; place < line; place++) stretched[row * line + place] += weight * rows[from + place];
    });
  });
  return new Uint8Array(Uint8ClampedArray.from(stretched).buffer); // rounds, and cuts what cubic weights overshoot
}
