for (const box of document.querySelectorAll(".viewer")) {
  const scans = JSON.parse(box.querySelector("script").textContent);
  const part = (name) => box.querySelector(`[data-part="${name}"]`);
  const [choose, canvas, layers, place, lines] = ["choose", "canvas", "layers", "place", "lines"].map(part);
  let shown = null;
  const make = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text ?? "" }, more);
  const slider = (title, low, high, value, act) => {
    const label = make("label", "", { className: "slider" });
    const number = make("output", value.toPrecision(3));
    const range = make("input", "", { type: "range", min: low, max: high, step: (high - low) / 200, value });
    range.addEventListener("input", () => { number.textContent = Number(range.value).toPrecision(3); act(Number(range.value)); });
    label.append(make("span", title), range, number);
    return label;
  };
  const load = async (scan) => {
    const volumes = [{ base64: scan.scan, name: "scan.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255 }];
    for (const over of scan.overlays) {
      const look = over.labels ? { colormap: "gray", opacity: scan.overlays.some((each) => !each.labels) ? 0.2 : 0.5 }
        : { colormap: "inferno", opacity: 0.8, cal_min: over.window[0] + 0.25 * (over.window[1] - over.window[0]), cal_max: over.window[1] };
      volumes.push({ base64: over.volume, name: "layer.nii.gz", ...look });
    }
    for (const volume of [...shown.volumes]) shown.removeVolume(volume);
    for (const volume of volumes) shown.addVolume(await niivue.NVImage.loadFromBase64(volume));
    lines.replaceChildren(...scan.lines.map((line) => make("p", line)));
    layers.replaceChildren();
    scan.overlays.forEach((over, at) => {
      const volume = shown.volumes[at + 1];
      const field = make("fieldset");
      field.append(make("legend", over.title));
      if (over.labels) {
        const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
        for (const [value, name, colour] of over.labels) {
          ["R", "G", "B"].forEach((key, n) => table[key].push(parseInt(colour.slice(1 + 2 * n, 3 + 2 * n), 16)));
          table.A.push(255); table.I.push(value); table.labels.push(name);
          const entry = make("span", name, { className: "key" });
          entry.style.borderColor = colour;
          field.append(entry);
        }
        volume.setColormapLabel(table);
      }
      field.append(slider("opacity", 0, 1, volume.opacity, (value) => shown.setOpacity(at + 1, value)));
      if (!over.labels) {
        const act = (key) => (value) => { volume[key] = value; shown.updateGLVolume(); };
        field.append(slider("shown from", over.highest / 250, over.highest, volume.cal_min, act("cal_min")));
        field.append(slider("brightest at", over.highest / 250, over.highest, volume.cal_max, act("cal_max")));
      }
      layers.append(field);
    });
    shown.scene.crosshairPos = shown.mm2frac(scan.at);
    shown.updateGLVolume();
    box.dataset.ready = scan.name;
  };
  const start = async () => {
    if (shown) return;
    const here = (data) => { place.textContent = data.string ?? ""; };
    const look = { backColor: [0.05, 0.05, 0.06, 1], isRadiologicalConvention: true, isResizeCanvas: true, onLocationChange: here,
      crosshairWidth: 0.4, crosshairWidthUnit: "percent" };
    try {
      shown = new niivue.Niivue({ ...look, logLevel: "error", loadingText: "" });
      shown.onLocationChange = here;
      await shown.attachToCanvas(canvas);
      shown.setMultiplanarLayout(2);
      await load(scans[0]);
    } catch (error) {
      box.dataset.failed = String(error);
      lines.replaceChildren(make("p", `This browser cannot show it (WebGL 2 is needed): ${error}`));
    }
  };
  scans.forEach((scan, number) => choose.append(make("option", scan.name, { value: number })));
  choose.addEventListener("change", () => load(scans[Number(choose.value)]));
  new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && start()).observe(box);
}
