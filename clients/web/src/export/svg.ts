// SPDX-License-Identifier: Apache-2.0
// A circuit's picture as SVG, self-contained, in the colours of the theme it was made in; and as PNG.
import { NODE_HEIGHT, NODE_WIDTH } from "../graph/layout.js";
import { opacityOf, widthOf, type Scene } from "../graph/scene.js";
import { edgeTitle } from "../graph/topology.js";

export interface Colours {
  page: string;
  ink: string;
  line: string;
  node: string;
  mlp: string;
  plus: string;
  minus: string;
}

const ENTITIES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escape = (text: string) => text.replace(/[&<>"]/g, (character) => ENTITIES[character]!);
const round = (value: number) => Math.round(value * 10) / 10;

/** Edges carry their name and exact score as a title, which browsers show under the pointer. */
export function toSvg(scene: Scene, values: Float32Array, colours: Colours, title: string): string {
  const { layout, topology } = scene;
  const [width, height] = [Math.ceil(layout.width), Math.ceil(layout.height)];
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" ` +
      `font-family="system-ui, sans-serif" font-size="11" text-anchor="middle">`,
    `<title>${escape(title)}</title>`,
    `<rect width="100%" height="100%" fill="${colours.page}"/>`,
    `<g fill="none">`,
  ];
  for (const { edge, curve, strength, positive } of [...scene.edges].reverse()) {
    const c = Object.fromEntries(Object.entries(curve).map(([key, value]) => [key, round(value)]));
    parts.push(
      `<path d="M${c["x0"]} ${c["y0"]}C${c["x1"]} ${c["y1"]} ${c["x2"]} ${c["y2"]} ${c["x3"]} ${c["y3"]}" ` +
        `stroke="${positive ? colours.plus : colours.minus}" stroke-width="${round(widthOf(strength))}" ` +
        `stroke-opacity="${round(opacityOf(strength))}">` +
        `<title>${escape(edgeTitle(topology, edge))}: ${values[edge]}</title></path>`,
    );
  }
  parts.push("</g>");
  topology.places.forEach((place, index) => {
    const name = place.name.replace(/^MLP /, "M");
    const k = layout.nodeScale;
    const nodeWidth = Math.max(NODE_WIDTH, name.length > 6 ? 64 : 0) * k;
    const nodeHeight = NODE_HEIGHT * k;
    const [x, y] = [layout.x[index]!, layout.y[index]!];
    parts.push(
      `<g opacity="${scene.touched[index] === 1 ? 1 : 0.35}">` +
        `<rect x="${round(x - nodeWidth / 2)}" y="${round(y - nodeHeight / 2)}" ` +
        `width="${round(nodeWidth)}" height="${round(nodeHeight)}" ` +
        `rx="${round((place.head >= 0 ? 11 : 4) * k)}" ` +
        `fill="${place.head >= 0 ? colours.node : colours.mlp}" stroke="${colours.line}"/>` +
        `<text x="${round(x)}" y="${round(y + 4 * k)}" fill="${colours.ink}" ` +
        `font-size="${round((name.length > 6 ? 9 : 11) * k)}">` +
        `${escape(name)}</text></g>`,
    );
  });
  parts.push("</svg>");
  return parts.join("\n");
}

/** The SVG drawn at twice its size. */
export async function toPng(svg: string): Promise<Blob> {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  await image.decode();
  const canvas = new OffscreenCanvas(image.width * 2, image.height * 2);
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return canvas.convertToBlob({ type: "image/png" });
}
