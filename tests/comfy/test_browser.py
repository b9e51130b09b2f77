"""ComfyUI's server and page on the CPU, in a headless Chromium: nodes found, wired, run; help, example workflows."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest
from safetensors.torch import save_file

from shelllcc.anchors.bankfile import save_bank
from shelllcc.anchors.choose import load_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
]
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1600,1000"""
READY = "return !!(window.app && app.graph && window.LiteGraph && LiteGraph.registered_node_types.ShellLCCFit)"
WIRE = """
const place = {TinyWan: [0, 0], CLIPTextEncode: [0, 130], EmptyHunyuanLatentVideo: [0, 300], KSampler: [760, 0],
    VAEDecode: [760, 330], PreviewImage: [1130, 0], ShellLCCScore: [760, 440]};
const by = {ShellLCCGuidance: app.graph.nodes[0]};
by.ShellLCCGuidance.pos = [380, 0];
for (const [type, pos] of Object.entries(place)) {
    by[type] = LiteGraph.createNode(type);
    app.graph.add(by[type]);
    by[type].pos = pos;
}
const plot = LiteGraph.createNode("PreviewImage");
app.graph.add(plot);
plot.pos = [1130, 440];
const out = (node, name) => node.outputs.findIndex(o => o.name == name || o.type == name);
const wire = (from, what, to, input) => by[from].connect(out(by[from], what), by[to] ?? to, input);
wire("TinyWan", "MODEL", "ShellLCCGuidance", "model");
wire("ShellLCCGuidance", "MODEL", "KSampler", "model");
wire("TinyWan", "CLIP", "CLIPTextEncode", "clip");
wire("CLIPTextEncode", "CONDITIONING", "KSampler", "positive");
wire("CLIPTextEncode", "CONDITIONING", "KSampler", "negative");
wire("EmptyHunyuanLatentVideo", "LATENT", "KSampler", "latent_image");
wire("KSampler", "LATENT", "VAEDecode", "samples");
wire("TinyWan", "VAE", "VAEDecode", "vae");
wire("VAEDecode", "IMAGE", "PreviewImage", "images");
wire("KSampler", "LATENT", "ShellLCCScore", "latent");
by.ShellLCCScore.connect(1, plot, "images");
const set = (type, values) => by[type].widgets.forEach(w => { if (w.name in values) w.value = values[w.name]; });
set("CLIPTextEncode", {text: arguments[0]});
set("EmptyHunyuanLatentVideo", {width: 128, height: 128, length: 5});
set("KSampler", {steps: 6, cfg: 3, sampler_name: "euler", scheduler: "simple", seed: 7});
set("ShellLCCGuidance", {fit: arguments[1], bank: "tiny-wan"});
set("ShellLCCScore", {bank: arguments[2]});
app.canvas.ds.scale = 0.9;
app.canvas.ds.offset = [100, 110];
app.canvas.setDirty(true, true);
"""


def got(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def server(root, pipe, tmp_path_factory):
    """The address of a server whose nodes are a clone's, and the tiny Wan's."""
    place = root / "runs/comfyui"
    if not (place / "lib/comfyui_frontend_package").exists():
        pytest.skip("there is no ComfyUI with its web page in runs/comfyui; `make comfyui` fetches one")
    base = tmp_path_factory.mktemp("server")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes/shelllcc").symlink_to(root)
    (base / "custom_nodes/tiny_wan.py").symlink_to(root / "tests/comfy/tiny.py")
    (base / "user/default").mkdir(parents=True)
    (base / "user/default/comfy.settings.json").write_text('{"Comfy.TutorialCompleted": true}')
    text = pipe.encode_prompt("a tabby cat", do_classifier_free_guidance=False, max_sequence_length=512)[0]
    save_file({"a tabby cat": text.contiguous()}, base / "texts.safetensors")
    (base / "banks").mkdir()  # one of Wan2.1's latents, as the node Score takes latents for
    save_bank(replace(load_bank("auto", pipe), vae=fingerprint(WAN21_VAE)), base / "banks/wan21.safetensors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [root / "tests/comfy/server.py", place / "ComfyUI", place / "lib", base, port]
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (base / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=base,
            env=outside | {"SHELLLCC_BANKS": str(base / "banks")},
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        waited(lambda: got(f"{address}/system_stats"), lambda: (base / "log").read_text()[-3000:])
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def page(server):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser.set_script_timeout(60)
    try:
        browser.get(server)
        waited(lambda: browser.execute_script(READY), lambda: "the page does not come up")
        yield browser
    finally:
        browser.quit()


def waited(ask, why, seconds=90):
    """The first answer that is something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if answer := ask():
                return answer
        time.sleep(0.3)
    pytest.fail(str(why()))


SEE = """
const boxes = app.graph.nodes.map(node => [...node.pos, node.pos[0] + node.size[0], node.pos[1] + node.size[1]])
const edge = (at, of) => of(...boxes.map(box => box[at]))
const [left, top, right, bottom] = [edge(0, Math.min), edge(1, Math.min), edge(2, Math.max), edge(3, Math.max)]
const {ds, canvas} = app.canvas
ds.scale = Math.min(1, canvas.clientWidth / (right - left + 300), canvas.clientHeight / (bottom - top + 200))
ds.offset = [150 - left, 120 - top]
app.canvas.setDirty(true, true)
"""  # all nodes are in view


def searched(page, canvas):
    """The field of the search that a double click opens; a page that is busy may take it for two clicks."""
    ActionChains(page).move_to_element(canvas).double_click().perform()
    until = time.monotonic() + 8
    while time.monotonic() < until and not field(page):
        time.sleep(0.3)
    return field(page)


def test_the_node_is_found_by_search_wired_and_run(root, server, page):
    page.execute_script("app.graph.clear()")
    canvas = page.find_element(By.ID, "graph-canvas")
    search = waited(lambda: searched(page, canvas), lambda: "a double click on the canvas opens no search")
    search.send_keys("shell-lcc gui")
    waited(lambda: "Shell-LCC Guidance" in page.find_element(By.TAG_NAME, "body").text, lambda: "the node is not found")
    search.send_keys(Keys.ENTER)
    waited(lambda: nodes(page) == ["ShellLCCGuidance"], lambda: nodes(page))
    page.execute_script(WIRE, "a tabby cat", "none: the guide's defaults", "wan21")
    time.sleep(1)
    page.find_element(By.CSS_SELECTOR, "[data-testid=queue-button]").click()
    [run] = waited(lambda: json.loads(got(f"{server}/history")), lambda: "nothing ran").values()
    assert run["status"]["status_str"] == "success", run["status"]
    seen = [image for output in run["outputs"].values() for image in output.get("images", [])]
    assert len(seen) == 5 + 1  # frames of the clip, and the score's picture
    page.execute_script(SEE)
    time.sleep(2)
    shown = root / "runs/comfyui/page.png"
    page.save_screenshot(str(shown))
    assert shown.stat().st_size > 20_000


def test_the_example_workflows_are_listed_and_are_those_that_are_held_valid(root, server, page):
    files = {path.stem: path for path in (root / "example_workflows").glob("*.json")}
    listed = json.loads(got(f"{server}/workflow_templates"))["shelllcc"]
    assert sorted(listed) == sorted(files)
    for name, path in files.items():
        shipped = got(f"{server}/api/workflow_templates/shelllcc/{name}.json")
        picture = got(f"{server}/api/workflow_templates/shelllcc/{name}.jpg")
        assert picture[:3] == b"\xff\xd8\xff"
        assert len(picture) < 100_000
        assert shipped == path.read_bytes()
        prompt = page.execute_async_script(
            "const done = arguments[1];"
            "app.loadGraphData(arguments[0]).then(() => app.graphToPrompt()).then(p => done(p.output))",
            json.loads(shipped),
        )
        assert prompt == json.loads((root / f"tests/comfy/workflows/{name}.json").read_text())


def test_help_is_served_for_every_node(server):
    for node in ("ShellLCCFit", "ShellLCCGuidance", "ShellLCCScore"):
        assert got(f"{server}/extensions/shelllcc/docs/{node}.md").startswith(b"# Shell-LCC ")


def field(page):
    """The field that has the focus, if one does."""
    found = page.switch_to.active_element
    return found if found.tag_name == "input" else None


def nodes(page):
    return page.execute_script("return app.graph.nodes.map(node => node.type)")
