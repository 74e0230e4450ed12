"""Optimal transport: cost blocks and Sinkhorn sweeps."""


def warm() -> None:
    """Compile cost blocks and Sinkhorn sweeps."""
    import numpy as np

    from tamis.native.neighbours import panels
    from tamis.native.transport import costs, sinkhorn

    point = np.ones((1, 1), np.float32)
    block = costs.sphere_costs(point, panels.pack(point, inner=True))
    sums, columns = np.empty(len(block)), np.zeros(block.shape[1])
    for kind, kernel in ((np.float32, sinkhorn.sweep_narrow), (np.float64, sinkhorn.sweep_wide)):
        steps = np.zeros((len(block) // sinkhorn.ROWS, 2, sinkhorn.ROWS), kind)
        kernel(block, steps, np.zeros((2, block.shape[1]), kind), -1.0, sums, columns)
    sinkhorn.row_potential(block[0], columns, 1.0)
