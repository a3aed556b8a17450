// A tar archive (ustar) of texts, for the results of batch operations.

const BLOCK = 512;

const octal = (value, digits) => `${value.toString(8).padStart(digits, '0')}\0`;

function header(name, size, seconds) {
  const block = Buffer.alloc(BLOCK);
  const put = (at, text) => block.write(text, at, 'latin1');
  put(0, name);
  put(100, octal(0o644, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(size, 11));
  put(136, octal(seconds, 11));
  put(148, ' '.repeat(8));
  put(156, '0');
  put(257, 'ustar\u000000');
  // the sum is taken with blanks in its own place
  put(148, `${octal(block.reduce((sum, byte) => sum + byte, 0), 6)} `);
  return block;
}

export function tarOf(files, seconds) {
  const blocks = [];
  for (const [name, text] of files) {
    const data = Buffer.from(text);
    blocks.push(header(name, data.length, seconds), data, Buffer.alloc(-data.length & (BLOCK - 1)));
  }
  return Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK)]);
}
