// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them. One way for each kind of number, everywhere.

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** 1536 → "1.5 KiB". */
export function bytes(value: bigint | number): string {
  let size = Number(value);
  let unit = 0;
  while (size >= 1024 && unit < BYTE_UNITS.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** 75000 ms → "1 min 15 s". */
export function duration(ms: bigint | number): string {
  const seconds = Number(ms) / 1000;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds) % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** 32491 → "32,491". */
export function count(value: bigint | number): string {
  return Number(value).toLocaleString("en-US", { maximumFractionDigits: 6 });
}

/** "1 edge", "2 edges". */
export function counted(value: bigint | number, noun: string, nouns = `${noun}s`): string {
  return `${count(value)} ${Number(value) === 1 ? noun : nouns}`;
}

/** A score or a metric: four significant digits, a real minus sign, no noise. */
export function number(value: number): string {
  if (Number.isNaN(value)) return "n/a";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e4 && size < 1e9 ? count(Math.round(size))
    : size >= 1e-3 && size < 1e4 ? size.toPrecision(4) : size.toExponential(2);
  return (value < 0 ? "−" : "") + text;
}

/** Where exactness is said elsewhere, as on an axis: "0.05", "1,460". `digits`: those that count. */
export function brief(value: number, digits = 3): string {
  const size = Math.abs(value);
  if (value === 0) return "0";
  const text = size >= 1e5 || size < 1e-3 ? size.toExponential(0) : count(Number(size.toPrecision(digits)));
  return (value < 0 ? "−" : "") + text;
}

/** 0.0731 → "7.3 %". */
export function percent(share: number): string {
  return `${(share * 100).toFixed(share >= 0.9995 || share === 0 ? 0 : 1)} %`;
}

/** The time of day of a moment, "14:03:22". */
export function clock(ms: number): string {
  return new Date(ms).toLocaleTimeString("en-GB");
}
