// Differences of two documents, line by line.

/** Lines that are compared at most; longer documents are shown without a comparison. */
const MAX_LINES = 1500;

/**
 * @param {string} before
 * @param {string} after
 * @returns {{kind: 'same' | 'added' | 'removed', text: string}[]}
 */
export function lines(before, after) {
  const a = before ? before.split('\n') : [];
  const b = after ? after.split('\n') : [];
  if (a.length > MAX_LINES || b.length > MAX_LINES) {
    return [...a.map((text) => line('removed', text)), ...b.map((text) => line('added', text))];
  }
  // Lengths of the longest common subsequences of the rests.
  const rest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      rest[i][j] = a[i] === b[j] ? rest[i + 1][j + 1] + 1 : Math.max(rest[i + 1][j], rest[i][j + 1]);
    }
  }
  const result = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      result.push(line('same', a[i++]));
      j++;
    } else if (i < a.length && (j >= b.length || rest[i + 1][j] >= rest[i][j + 1])) {
      result.push(line('removed', a[i++]));
    } else {
      result.push(line('added', b[j++]));
    }
  }
  return result;
}

/** @param {'same' | 'added' | 'removed'} kind @param {string} text */
const line = (kind, text) => ({ kind, text });
