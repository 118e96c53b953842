"""`python -m dp_bench`, and `torchrun --nproc-per-node N -m dp_bench train …` for one run on several GPUs."""

from dp_bench.cli import main

if __name__ == "__main__":
    main()
