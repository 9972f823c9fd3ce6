"""Two ranks for all tests of what several processes do together."""

from pathlib import Path

import pytest
import torch.distributed as dist


@pytest.fixture(scope="session")
def meeting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one for each work that both ranks have done; they meet through files, without a port to choose."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo, the backend between processes on CPUs")
    import _distributed_child
    import _sharing_child
    import torch.multiprocessing as mp
    from _ranks_child import CHILDREN, WORLD, work

    folder = tmp_path_factory.mktemp("ranks")
    for name in CHILDREN:
        (folder / name).mkdir()
    _distributed_child.begin_alone(folder / "shared batch")
    _sharing_child.begin_alone(folder / "shared sums")
    mp.spawn(work, (folder,), nprocs=WORLD)
    return folder
