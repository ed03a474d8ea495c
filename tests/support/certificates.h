/*
 * Certificates for the tests of TLS, made anew for each test in a folder of its own: good ones, and
 * each kind of bad one.
 *
 * Thread: any. Source: RFC 5280; X509V3_EXT_conf_nid(3).
 */
#ifndef MIDGE_CERTIFICATES_H
#define MIDGE_CERTIFICATES_H

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>

#define CERTIFICATES_PATH_CAP 128u

/* Who signs; NULL certificate = nobody. */
struct midge_issuer {
    X509 *certificate;
    EVP_PKEY *key;
};

struct midge_certificates {
    char folder[64];
    char ca_file[CERTIFICATES_PATH_CAP]; /* of the issuer that is trusted */
    struct midge_issuer ca;
    uint32_t file_count;
    char files[32][CERTIFICATES_PATH_CAP];
};

/* What a certificate says. Zero it first. */
struct midge_certificate_options {
    const char *common_name;           /* NULL = "midge" */
    const char *names;                 /* as "DNS:midge.test,IP:127.0.0.1"; NULL = none */
    const char *usage;                 /* extended key usage; NULL = "serverAuth" */
    bool is_ca;                        /* may sign others */
    int32_t from_s;                    /* valid from now plus this */
    int32_t until_s;                   /* to now plus this; 0 = a day */
    const struct midge_issuer *issuer; /* NULL = the trusted one */
    bool is_self_signed;
};

/* Where a certificate and its key are. */
struct midge_certificate_files {
    char cert_file[CERTIFICATES_PATH_CAP];
    char key_file[CERTIFICATES_PATH_CAP];
};

/** Make the folder and the issuer. */
void midge_certificates_init(struct midge_certificates *certificates);
/** Remove it all. */
void midge_certificates_deinit(struct midge_certificates *certificates);
/** Make a certificate and its files. @param issuer_out  as an issuer of others, or NULL; owned */
struct midge_certificate_files
midge_certificates_make(struct midge_certificates *certificates,
                        const struct midge_certificate_options *options,
                        struct midge_issuer *issuer_out);
void midge_issuer_deinit(struct midge_issuer *issuer);
/** Write a file of this text. @return its path, borrowed */
const char *midge_certificates_write(struct midge_certificates *certificates, const char *text);

#endif
