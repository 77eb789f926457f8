# cmake -DINPUT=file -DOUTPUT=file.c -DSYMBOL=name -P embed.cmake
# Turns a file into `const unsigned char name[]` and `const size_t name_bytes`.
file(READ ${INPUT} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
file(WRITE ${OUTPUT} "/* generated from ${SYMBOL} */\n#include <stddef.h>\n"
    "extern const unsigned char ${SYMBOL}[];\nextern const size_t ${SYMBOL}_bytes;\n"
    "const unsigned char ${SYMBOL}[] = {\n${hex}0\n};\nconst size_t ${SYMBOL}_bytes = ${bytes};\n")
