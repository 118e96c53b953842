"""Benchmarks of speed and memory: `python scripts/bench --help` lists them.

models      the models with random weights, by family, and the texts that they read
systems     what is measured: the product, peft and the authors' step, behind one interface
protocol    systems in their processes, which take turns; time, memory, the machine's matrix product
report      tables, targets, and files with machine, date, versions and commit
speed       the commands t5, decoder and encoder; growth, memory, data and tables have theirs
"""
