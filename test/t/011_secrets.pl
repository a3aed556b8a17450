# The API key is in no log, no statistics view, no error, no table of ours and no dump of an ordinary user, whichever way
# it was given and however mc_connect ends (N12). Settings of the log are the server's defaults, but for
# log_parameter_max_length_on_error, which is as talkative as can be.

use strict;
use warnings;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = McTest::Simulator->start;
my $url = $sim->url;
my $demo = $sim->post('/_sim/demo', { key => 'good7f3a-us1' });
my $statements = -e qx(pg_config --sharedir) =~ s/\n//r . '/extension/pg_stat_statements.control';
my $node = McTest::Node->start('main', conf => "log_parameter_max_length_on_error = -1\n"
	. ($statements ? "shared_preload_libraries = 'mailchimp_sync, pg_stat_statements'\n" : ''));
$node->query('CREATE EXTENSION pg_stat_statements') if $statements;
is($node->query("SELECT current_setting('log_statement') || current_setting('log_min_error_statement')"), 'noneerror', 'settings of the log');

$node->role('ann', level => 'admin');
$node->role('rita', level => 'reader');
$node->role('spy');
$node->query('GRANT pg_read_all_stats, pg_read_all_data TO spy');
sub give_server
{
	my ($name, $endpoint) = @_;
	$node->query("CREATE SERVER $name FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '$endpoint'); ALTER SERVER $name OWNER TO ann");
}
give_server('crm', $url);
give_server('nowhere', 'http://127.0.0.1:1');

# Every key that is given somewhere; none of them may show up anywhere.
my @keys = ('good7f3a-us1');
my $number = 0;
sub new_key { push @keys, sprintf 'secret%02dx-us1', ++$number; return $keys[-1] }

# Something that was said to somebody: none of the keys in it. Returns it.
sub clean
{
	my ($text, $name) = @_;
	my @found = grep { index($text, $_) >= 0 } @keys;
	is("@found", '', "N12: $name: no key");
	return $text;
}

# -----------------------------------------------------------------------------------------------------------------
# As a literal
# -----------------------------------------------------------------------------------------------------------------

my $key = new_key();
like(clean($node->error("SELECT mc_connect('crm', '$key')", as => 'ann'), 'wrong key'), qr/API Key Invalid/, 'it is wrong');
$key = new_key();
like(clean($node->error("SELECT mc_connect('nowhere', '$key')", as => 'ann'), 'no way'), qr/08006/, 'there is no way');
$key = new_key();
like(clean($node->error("SELECT mc_connect('crm', '$key broken')", as => 'ann'), 'no key at all'), qr/not an API key/, 'it is none');
$key = new_key();
like(clean($node->error("SELECT mc_connect('elsewhere', '$key', endpoint => 'https://x.example.org')", as => 'ann'), 'no right'), qr/42501/, 'not allowed');
$node->query('CREATE ROLE bob LOGIN');
$node->query("SELECT mc_grant('bob', 'admin', 'nowhere')");
$key = new_key();
like(clean($node->error("SELECT mc_connect('crm', '$key')", as => 'bob'), 'no level'), qr/42501: permission denied/, 'denied by the gate');

my $session = $node->session(as => 'ann');
for my $way ('pg_cancel_backend', 'pg_terminate_backend')
{
	$key = new_key();
	$sim->hold(method => 'GET', path => '^/$', when => 'before');
	McTest::begin($session, "SELECT mc_connect('crm', '$key');");
	$sim->wait_held;
	is($node->query("SELECT query FROM pg_stat_activity WHERE usename = 'ann' AND state = 'active'", as => 'spy'),
		'SELECT mc_connect(...)', 'pg_stat_activity while it waits');
	my $from = $node->log_end;
	$node->query("SELECT $way(pid) FROM pg_stat_activity WHERE usename = 'ann'");
	$node->wait_log(qr/(canceling statement|terminating connection) due to/, $from);
	if ($way eq 'pg_cancel_backend')
	{
		$session->query('');
		like(clean($session->{stderr}, 'cancelled'), qr/canceling statement/, 'cancelled');
	}
	$sim->release;
}
# the process is gone, psql notices at its end
eval { $session->quit };

$key = new_key();
$sim->hold(method => 'GET', path => '^/$', when => 'before');
like(clean($node->error("SET statement_timeout = '200ms'; SELECT mc_connect('crm', '$key')", as => 'ann'), 'statement_timeout'),
	qr/57014/, 'statement_timeout');
$sim->release;

# what fails later in the same statement shows it as little
like(clean($node->error("SELECT 1 / (0 * length(mc_connect('crm', 'good7f3a-us1')))", as => 'ann'), 'failed afterwards'), qr/22012/, 'afterwards');
like(clean($node->error("DO \$\$ BEGIN PERFORM mc_connect('crm', 'good7f3a-us1'); RAISE 'no'; END \$\$", as => 'ann'), 'in a block'), qr/P0001/, 'in a block');
is($node->query("SELECT mc_connect('crm', 'good7f3a-us1')", as => 'ann'), 'Demo', 'a good one');
$key = new_key();
$node->error("SELECT mc_connect('crm', '$key'), 1", as => 'ann');

# -----------------------------------------------------------------------------------------------------------------
# As a bound parameter
# -----------------------------------------------------------------------------------------------------------------

my $script = PostgreSQL::Test::Utils::tempdir . '/connect.sql';
sub bound
{
	my ($connection, $key) = @_;
	append_to_file($script, "SELECT mc_connect('$connection', :key);\n") unless -e $script;
	my ($out, $err);
	IPC::Run::run [ 'pgbench', '-h', $node->host, '-p', $node->port, '-U', 'ann', '-n', '-t', 1, '-M', 'extended', '-D', "key=$key",
		'-f', $script, 'postgres' ], '>', \$out, '2>', \$err;
	return $err;
}
like(bound('crm', 'good7f3a-us1'), qr/^(?!.*aborted)/s, 'bound');
like(bound('crm', new_key()), qr/API Key Invalid/, 'bound, wrong');
$sim->hold(method => 'GET', path => '^/$', when => 'before');
my $pid = fork // die;
if ($pid == 0) { bound('crm', 'secret99b-us1'); POSIX::_exit(0) }
push @keys, 'secret99b-us1';
$sim->wait_held;
$node->query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ann' AND state = 'active'");
waitpid $pid, 0;
$sim->release;

# -----------------------------------------------------------------------------------------------------------------
# In a file
# -----------------------------------------------------------------------------------------------------------------

sub write_key { my ($text) = @_; open my $out, '>', $node->data_dir . '/key' or die; print $out $text; close $out }
write_key('good7f3a-us1');
is($node->query("SELECT mc_connect('crm', api_key_file => 'key')"), 'Demo', 'in a file');
write_key(new_key());
like(clean($node->error("SELECT mc_connect('crm', api_key_file => 'key')"), 'wrong, in a file'), qr/API Key Invalid/, 'wrong, in a file');
write_key(new_key() . ' nonsense');
like(clean($node->error("SELECT mc_connect('crm', api_key_file => 'key')"), 'nonsense in a file'), qr/does not hold/, 'nonsense in a file');
write_key('good7f3a-us1');

# -----------------------------------------------------------------------------------------------------------------
# Plain DDL: what we refuse does not show it (what works is the server's business, see the documentation)
# -----------------------------------------------------------------------------------------------------------------

$key = new_key();
like(clean($node->error("ALTER USER MAPPING FOR ann SERVER crm OPTIONS (ADD api_key '$key')", as => 'ann'), 'DDL'), qr/42501/, 'both in DDL');
$key = new_key();
like(clean($node->error("ALTER USER MAPPING FOR ann SERVER crm OPTIONS (ADD api_key '$key')"), 'DDL'), qr/exclude/, 'and by a superuser');
$key = new_key();
like(clean($node->error("CREATE USER MAPPING FOR bob SERVER crm OPTIONS (api_key '$key nonsense')", as => 'ann'), 'DDL'), qr/not an API key/, 'nonsense in DDL');
$key = new_key();
like(clean($node->error("CREATE USER MAPPING FOR bob SERVER crm OPTIONS (key '$key')", as => 'ann'), 'DDL'), qr/invalid option/, 'misspelt in DDL');

# -----------------------------------------------------------------------------------------------------------------
# Where it could be found
# -----------------------------------------------------------------------------------------------------------------

$node->query("SELECT mc_connect('crm', 'good7f3a-us1')", as => 'ann');
my $log = clean(slurp_file($node->logfile), 'the server\'s log');
my %logged = map { $_ => scalar(() = $log =~ /$_/g) } 'API Key Invalid', 'canceling statement due to user request',
	'terminating connection due to administrator command', 'canceling statement due to statement timeout', 'division by zero';
is_deeply(\%logged, { 'API Key Invalid' => 4, 'canceling statement due to user request' => 1,
	'terminating connection due to administrator command' => 2, 'canceling statement due to statement timeout' => 1,
	'division by zero' => 1 }, 'but all errors are in it');

SKIP: {
	skip 'pg_stat_statements is not installed', 2 unless $statements;
	like(clean($node->query('SELECT query FROM pg_stat_statements', as => 'spy') =~ s/^.*(USER MAPPING|DO ).*$//gmr, 'pg_stat_statements'),
		qr/mc_connect\(\$1, \$2\)/, 'it has our calls without values');
}
clean($node->query('SELECT string_agg(a::text, chr(10)) FROM pg_stat_activity a', as => 'spy'), 'pg_stat_activity');
for my $role ('rita', 'spy', 'bob')
{
	is($node->query("SELECT count(*), count(umoptions) FROM pg_user_mappings WHERE srvname = 'crm'", as => $role), '1|0', "pg_user_mappings for $role");
}
clean($node->query('SELECT string_agg(s::text, chr(10)) FROM pg_foreign_server s'), 'pg_foreign_server');
my @tables = split /\n/, $node->query("SELECT oid::regclass FROM pg_class WHERE relnamespace = 'mailchimp_sync'::regnamespace AND relkind IN ('r', 'v')");
cmp_ok(scalar @tables, '>', 20, 'our tables and views');
clean(join("\n", map { $node->query("SELECT t::text FROM $_ t") } @tables), 'they');

my $dump = PostgreSQL::Test::Utils::tempdir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-U', 'spy', '-f', $dump, 'postgres' ], 'an ordinary role that may read everything dumps');
like(clean(slurp_file($dump), 'its dump'), qr/CREATE SERVER crm/, 'has the server in it');

# a superuser's dump has it, or a restore would lose it
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'a superuser dumps');
like(slurp_file($dump), qr/good7f3a-us1/, 'the superuser\'s has the key');

done_testing();
