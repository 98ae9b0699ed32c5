// A sub-model that `sfsc export` wrote, run by onnxruntime-web in this browser.

const FORMAT = 2;
const METADATA = 14; // the field of an ONNX file that holds pairs of key (1) and value (2)

// What onnxruntime-web does not tell: the text in the metadata of an ONNX file under this key.
function property(bytes, wanted) {
  const text = (part) => new TextDecoder().decode(part);
  for (const [field, value] of fields(bytes)) {
    if (field !== METADATA) continue;
    const pair = Object.fromEntries(fields(value));
    if (text(pair[1]) === wanted) return text(pair[2]);
  }
  throw new RangeError(`no ${wanted}`);
}

// The fields of a protobuf message that hold bytes: [number, bytes]. Numbers are skipped.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
    throw new RangeError("truncated");
  };
  while (at < bytes.length) {
    const tag = varint();
    if (tag % 8 === 2) {
      const size = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + size)];
      at += size;
    } else if (tag % 8 === 0) {
      varint();
    } else {
      throw new RangeError("not an ONNX file");
    }
  }
}

function describe(bytes, name) {
  let about;
  try {
    about = JSON.parse(property(bytes, "sfsc"));
  } catch {
    throw new Error(`${name} is not a model of sfsc: make one with sfsc export.`);
  }
  if (about.format > FORMAT) throw new Error(`${name} was written by a newer sfsc than this page knows: renew the page.`);
  return about;
}

async function runtime() {
  try {
    const ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
    ort.env.wasm.numThreads = 1; // more need two headers that a plain static server does not send
    return ort;
  } catch {
    throw new Error("onnxruntime-web is not here: run npm install in the folder of this page.");
  }
}

/**
 * Open the bytes of an ONNX file (Uint8Array); errors call it by `name`.
 *
 * Gives `about`, what the file says of itself (fingerprint, width, image_size as [height, width], ...), and
 * `embed`, from a Uint8Array of height x width x 3 RGB to a Float32Array of length 1, the embedding.
 */
export async function openModel(bytes, name) {
  const about = describe(bytes, name);
  const ort = await runtime();
  let session;
  try {
    session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Error(`${name} cannot be run by onnxruntime-web (${error.message.split("\n")[0]}): export it again.`);
  }
  const shape = [1, ...about.image_size, 3];
  const embed = async (pixels) => {
    const { embeddings } = await session.run({ images: new ort.Tensor("uint8", pixels, shape) });
    return embeddings.data;
  };
  return { about, embed, close: () => session.release() };
}
