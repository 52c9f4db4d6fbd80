"""What docs/recipes.md calls of Weights & Biases 0.31. It keeps what would be sent."""

run, runs = None, []


class Run:
    def __init__(self, project):
        self.project, self.logged, self.finished = project, [], False

    def log(self, data, step=None, commit=None):
        self.logged.append(data)

    def finish(self, exit_code=None):
        global run
        run, self.finished = None, True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.finish()


def init(entity=None, project=None, dir=None, id=None, name=None):
    global run
    run = Run(project)
    runs.append(run)
    return run
