"""Inline PTX, each instruction one function that kernels call like any other.

    emit      how one PTX statement becomes such a function
    scalar    arithmetic, loads and stores of single values, shuffles
    barrier   mbarriers, named barriers, clusters, register hand-over between warpgroups
    tma       bulk copies between global and shared memory
    wgmma     matrix products of a warpgroup (sm_90a) and the accumulators that they fill
    tiles     rows, columns and stores of accumulators
    mma       matrix products of a warp (sm_80 and newer), ldmatrix, cp.async
    vector    16-byte loads and stores, bfloat16 pairs
    share     several 16-byte vectors a thread, and formulas applied to all their elements
    transposed  accumulators by way of global memory to the A operands of a later kernel
    gather    loads through lists: integers, and the rows of a matrix that a list names
    layouts   NumPy models of which lane holds which element

A register tile is a tuple of values: it is passed and returned, never stored, and stays in
registers because an intrinsic takes it apart and puts it together in LLVM IR.
"""
