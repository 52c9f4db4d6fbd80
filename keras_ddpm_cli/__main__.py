"""`python -m keras_ddpm_cli`: the command `keras-ddpm`."""

from keras_ddpm_cli import main

if __name__ == "__main__":
    main()
