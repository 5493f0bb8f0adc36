// Unpacks zlib data (RFC 1950, 1951). Browsers can do this too, but asynchronously and not all of them; this way the
// page has one path, which is the tested one.

const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];
const DISTANCE_BITS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
const CODE_LENGTH_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

// The canonical code of these lengths: how many codes of each length there are, and the symbols in order.
function huffman(lengths) {
  const counts = new Uint16Array(16);
  for (const length of lengths) if (length) counts[length]++;
  const starts = new Uint16Array(17);
  for (let length = 1; length < 16; length++) starts[length + 1] = starts[length] + counts[length];
  const symbols = new Uint16Array(lengths.length);
  lengths.forEach((length, symbol) => { if (length) symbols[starts[length]++] = symbol; });
  return { counts, symbols };
}

function inflate(packed, size) {
  const out = new Uint8Array(size);
  let written = 0, next = 2, pool = 0, pooled = 0;

  const bits = wanted => {
    for (; pooled < wanted; pooled += 8) pool |= packed[next++] << pooled;
    const value = pool & ((1 << wanted) - 1);
    pool >>>= wanted;
    pooled -= wanted;
    return value;
  };
  const symbol = ({ counts, symbols }) => {
    let code = 0, first = 0, index = 0;
    for (let length = 1; length < 16; length++) {
      code |= bits(1);
      if (code - first < counts[length]) return symbols[index + code - first];
      index += counts[length];
      first = (first + counts[length]) << 1;
      code <<= 1;
    }
    throw new Error("the episode in this file is damaged");
  };
  const codes = () => {
    const literals = bits(5) + 257, distances = bits(5) + 1, given = bits(4) + 4;
    const own = new Array(19).fill(0);
    for (let i = 0; i < given; i++) own[CODE_LENGTH_ORDER[i]] = bits(3);
    const code = huffman(own), lengths = [];
    while (lengths.length < literals + distances) {
      const what = symbol(code);
      if (what < 16) lengths.push(what);
      else {
        const repeated = what === 16 ? lengths[lengths.length - 1] : 0;
        const times = what === 16 ? 3 + bits(2) : what === 17 ? 3 + bits(3) : 11 + bits(7);
        for (let i = 0; i < times; i++) lengths.push(repeated);
      }
    }
    return [huffman(lengths.slice(0, literals)), huffman(lengths.slice(literals))];
  };
  const fixed = () => [
    huffman(Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8))),
    huffman(new Array(30).fill(5)),
  ];

  for (let isLast = 0; !isLast;) {
    isLast = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      pool = pooled = 0;
      const length = packed[next] | (packed[next + 1] << 8);
      out.set(packed.subarray(next + 4, next + 4 + length), written);
      next += 4 + length;
      written += length;
      continue;
    }
    const [literal, distance] = kind === 1 ? fixed() : codes();
    for (let what = symbol(literal); what !== 256; what = symbol(literal)) {
      if (what < 256) {
        out[written++] = what;
        continue;
      }
      const length = LENGTH_BASE[what - 257] + bits(LENGTH_BITS[what - 257]);
      const far = symbol(distance);
      const from = written - DISTANCE_BASE[far] - bits(DISTANCE_BITS[far]);
      for (let i = 0; i < length; i++) out[written + i] = out[from + i];
      written += length;
    }
  }
  return out;
}
