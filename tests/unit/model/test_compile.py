"""torch.compile takes the whole network as one graph, in each way in which training and evaluation call it."""

import json
from pathlib import Path

import pytest

from zygote import Zygote

COMPILED = """
import json
import sys
import torch
from tiny import tiny_batch, tiny_net

training, options = json.loads({question!r})
net, image = tiny_net().train(training), tiny_batch(2, dtype=torch.float32)["image"]
with torch.set_grad_enabled(training):
    expected = net(image, **options)
    found = torch._dynamo.explain(net)(image, **options)
    print("graphs", found.graph_count, "breaks", found.graph_break_count, found.break_reasons)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(image, **options), expected)
sys.exit()
"""


@pytest.mark.parametrize(
    ("training", "options"),
    [(True, {"return_bases": True, "low": True}), (False, {"low": True}), (False, {})],
    ids=["a training step", "classes in blocks", "logits"],
)
def test_the_network_is_one_graph_without_a_break(zygote: Zygote, tmp_path: Path, training: bool, options: dict):
    """In a process without the shape checks of the tests, which torch.compile does not follow."""
    code = COMPILED.format(question=json.dumps([training, options]))
    assert "graphs 1 breaks 0 []" in zygote.run(cwd=tmp_path, patch=code)
