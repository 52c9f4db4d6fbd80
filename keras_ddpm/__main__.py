"""`python -m keras_ddpm`: the command `keras-ddpm`, after an import of the library."""

from keras_ddpm_cli import main

if __name__ == "__main__":
    main()
