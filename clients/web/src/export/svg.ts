// SPDX-License-Identifier: Apache-2.0
// A circuit's picture as SVG, self-contained, in the colours of the theme it was made in.
import { CURVE, NODE_HEIGHT, NODE_WIDTH } from "../graph/layout.js";
import { isTouched, opacityOf, ranksBetween, runsOf, widthOf, type Scene } from "../graph/scene.js";
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

/** Above this many edges, those of about one strength are one path: more paths than that no program shows with ease. */
export const NAMED_MAX = 5000;

function curveOf({ curves }: Scene, rank: number): string {
  const [x0, y0, ...others] = Array.from(curves.subarray(rank * CURVE, (rank + 1) * CURVE), round);
  return `M${x0} ${y0}C${others.join(" ")}`;
}

/** Each edge with its name and exact score as a title, which browsers show under the pointer. */
function namedEdges(scene: Scene, values: Float32Array, colours: Colours): string[] {
  return Array.from({ length: scene.count }, (_, index) => {
    const rank = scene.count - 1 - index; // the strongest on top
    const edge = scene.edges[rank]!;
    const strength = scene.strength[rank]!;
    return `<path d="${curveOf(scene, rank)}" stroke="${scene.positive[rank] ? colours.plus : colours.minus}" ` +
      `stroke-width="${round(widthOf(strength))}" stroke-opacity="${round(opacityOf(strength))}">` +
      `<title>${escape(edgeTitle(scene.topology, edge))}: ${values[edge]}</title></path>`;
  });
}

function edgesByStrength(scene: Scene, colours: Colours): string[] {
  const ranks = ranksBetween(0, scene.count);
  return runsOf(scene, ranks, scene.count).flatMap(({ begin, end, width, opacity }) =>
    [colours.minus, colours.plus].flatMap((stroke, sign) => {
      const ofSign = ranks.subarray(begin, end).filter((rank) => scene.positive[rank] === sign);
      const curves = Array.from(ofSign, (rank) => curveOf(scene, rank));
      return curves.length === 0 ? []
        : [`<path d="${curves.join("")}" stroke="${stroke}" ` +
            `stroke-width="${width.toFixed(2)}" stroke-opacity="${opacity.toFixed(2)}"/>`];
    }));
}

export function toSvg(scene: Scene, values: Float32Array, colours: Colours, title: string): string {
  const { layout, topology } = scene;
  const [width, height] = [Math.ceil(layout.width), Math.ceil(layout.height)];
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" ` +
      `font-family="system-ui, sans-serif" font-size="11" text-anchor="middle">`,
    `<title>${escape(title)}</title>`,
    `<rect width="100%" height="100%" fill="${colours.page}"/>`,
    `<g fill="none">`,
    ...(scene.count > NAMED_MAX ? edgesByStrength(scene, colours) : namedEdges(scene, values, colours)),
  ];
  parts.push("</g>");
  topology.places.forEach((place, index) => {
    const name = place.name.replace(/^MLP /, "M");
    const k = layout.nodeScale;
    const nodeWidth = Math.max(NODE_WIDTH, name.length > 6 ? 64 : 0) * k;
    const nodeHeight = NODE_HEIGHT * k;
    const [x, y] = [layout.x[index]!, layout.y[index]!];
    parts.push(
      `<g opacity="${isTouched(scene, index) ? 1 : 0.35}">` +
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
