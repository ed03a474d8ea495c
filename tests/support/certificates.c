/* See certificates.h. */
#include "certificates.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "midge/compiler.h"

#define DAY_S 86400

/* --- files --- */

static const char *new_path(struct midge_certificates *certificates)
{
    char path[CERTIFICATES_PATH_CAP];
    char *kept = certificates->files[certificates->file_count];

    MIDGE_ASSERT(certificates->file_count <
                 sizeof(certificates->files) / sizeof(certificates->files[0]));
    (void)snprintf(path, sizeof(path), "%s/%u.pem", certificates->folder, certificates->file_count);
    memcpy(kept, path, sizeof(path));
    certificates->file_count++;
    return kept;
}

const char *midge_certificates_write(struct midge_certificates *certificates, const char *text)
{
    const char *path = new_path(certificates);
    FILE *file = fopen(path, "we");

    MIDGE_ASSERT(file != NULL);
    MIDGE_ASSERT(fputs(text, file) >= 0);
    (void)fclose(file);
    return path;
}

static void write_certificate(struct midge_certificates *certificates, X509 *certificate,
                              char out[CERTIFICATES_PATH_CAP])
{
    const char *path = new_path(certificates);
    FILE *file = fopen(path, "we");

    MIDGE_ASSERT(file != NULL);
    MIDGE_ASSERT(PEM_write_X509(file, certificate) == 1);
    (void)fclose(file);
    (void)snprintf(out, CERTIFICATES_PATH_CAP, "%s", path);
}

static void write_key(struct midge_certificates *certificates, EVP_PKEY *key,
                      char out[CERTIFICATES_PATH_CAP])
{
    const char *path = new_path(certificates);
    FILE *file = fopen(path, "we");

    MIDGE_ASSERT(file != NULL);
    MIDGE_ASSERT(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1);
    (void)fclose(file);
    (void)snprintf(out, CERTIFICATES_PATH_CAP, "%s", path);
}

/* --- certificates --- */

static void add_extension(X509 *certificate, X509 *issuer, int kind, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;

    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    MIDGE_ASSERT(extension != NULL);
    MIDGE_ASSERT(X509_add_ext(certificate, extension, -1) == 1);
    X509_EXTENSION_free(extension);
}

static void add_extensions(X509 *certificate, X509 *issuer,
                           const struct midge_certificate_options *options)
{
    add_extension(certificate, issuer, NID_basic_constraints,
                  options->is_ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
    add_extension(certificate, issuer, NID_key_usage,
                  options->is_ca ? "critical,keyCertSign" : "critical,digitalSignature");
    add_extension(certificate, issuer, NID_subject_key_identifier, "hash");
    if (!options->is_ca)
        add_extension(certificate, issuer, NID_ext_key_usage,
                      options->usage == NULL ? "serverAuth" : options->usage);
    if (options->names != NULL)
        add_extension(certificate, issuer, NID_subject_alt_name, options->names);
}

static X509 *make_certificate(EVP_PKEY *key, const struct midge_issuer *issuer,
                              const struct midge_certificate_options *options)
{
    static const char name_default[] = "midge";
    const char *name = options->common_name == NULL ? name_default : options->common_name;
    X509 *certificate = X509_new();
    X509 *signer = issuer == NULL ? certificate : issuer->certificate;
    uint32_t serial = 0;

    MIDGE_ASSERT(certificate != NULL);
    MIDGE_ASSERT(getentropy(&serial, sizeof(serial)) == 0);
    MIDGE_ASSERT(X509_set_version(certificate, X509_VERSION_3) == 1);
    MIDGE_ASSERT(ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial) == 1);
    MIDGE_ASSERT(X509_gmtime_adj(X509_getm_notBefore(certificate), options->from_s) != NULL);
    MIDGE_ASSERT(X509_gmtime_adj(X509_getm_notAfter(certificate),
                                 options->until_s == 0 ? DAY_S : options->until_s) != NULL);
    MIDGE_ASSERT(X509_set_pubkey(certificate, key) == 1);
    MIDGE_ASSERT(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                                            (const unsigned char *)name, -1, -1, 0) == 1);
    MIDGE_ASSERT(X509_set_issuer_name(certificate, X509_get_subject_name(signer)) == 1);
    add_extensions(certificate, signer, options);
    MIDGE_ASSERT(X509_sign(certificate, issuer == NULL ? key : issuer->key, EVP_sha256()) > 0);
    return certificate;
}

void midge_certificates_init(struct midge_certificates *certificates)
{
    const struct midge_certificate_options options = {.common_name = "midge test CA",
                                                      .is_ca = true};

    *certificates = (struct midge_certificates){.folder = "/tmp/midge-certificates.XXXXXX"};
    MIDGE_ASSERT(mkdtemp(certificates->folder) != NULL);
    certificates->ca.key = EVP_EC_gen("P-256");
    MIDGE_ASSERT(certificates->ca.key != NULL);
    certificates->ca.certificate = make_certificate(certificates->ca.key, NULL, &options);
    write_certificate(certificates, certificates->ca.certificate, certificates->ca_file);
}

void midge_certificates_deinit(struct midge_certificates *certificates)
{
    midge_issuer_deinit(&certificates->ca);
    for (uint32_t i = 0; i < certificates->file_count; i++)
        (void)unlink(certificates->files[i]);
    (void)rmdir(certificates->folder);
}

struct midge_certificate_files
midge_certificates_make(struct midge_certificates *certificates,
                        const struct midge_certificate_options *options,
                        struct midge_issuer *issuer_out)
{
    const struct midge_issuer *trusted =
        options->issuer == NULL ? &certificates->ca : options->issuer;
    struct midge_certificate_files files;
    struct midge_issuer made = {.key = EVP_EC_gen("P-256")};

    MIDGE_ASSERT(made.key != NULL);
    made.certificate =
        make_certificate(made.key, options->is_self_signed ? NULL : trusted, options);
    write_certificate(certificates, made.certificate, files.cert_file);
    write_key(certificates, made.key, files.key_file);
    if (issuer_out == NULL)
        midge_issuer_deinit(&made);
    else
        *issuer_out = made;
    return files;
}

void midge_issuer_deinit(struct midge_issuer *issuer)
{
    X509_free(issuer->certificate);
    EVP_PKEY_free(issuer->key);
}
