# Nodes with the functions of test/unit/unit.c, and the server that answers badly.
#
#   my $node = McUnit::node('main', preload => 1);
#   my $ports = McUnit::server();           # by name, see test/unit/server.js; ends with the test

package McUnit;

use strict;
use warnings;
use JSON::PP qw(decode_json);
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($module, @pipes);

# unit.c and the files that it tests, without the rest of the extension. Its own symbols come first, whatever is loaded.
sub build
{
	return $module if $module;
	my $config = $ENV{PG_CONFIG} || 'pg_config';
	my $path = PostgreSQL::Test::Utils::tempdir() . '/unit';
	chomp(my $include = `$config --includedir-server`);
	system_or_bail($ENV{CC} || 'cc', qw(-std=gnu99 -shared -fPIC -g), '-Wl,-Bsymbolic', '-isystem', $include,
		'-o', "$path.so", "$McTest::root/test/unit/unit.c",
		map({ "$McTest::root/src/$_.c" } qw(http transfer slot)), '-lcurl');
	return $module = $path;
}

sub node
{
	my ($name, %options) = @_;
	my $path = build();
	my $node = McTest::Node->start($name, extension => 0,
		conf => "shared_preload_libraries = '" . ($options{preload} ? $path : '') . "'\n");
	my $sql = slurp_file("$McTest::root/test/unit/unit.sql");
	$node->query("\\set module '$path'\n$sql");
	return $node;
}

sub server
{
	pipe(my $input, my $end) or die "pipe: $!";
	pipe(my $result, my $output) or die "pipe: $!";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<&', $input) && open(STDOUT, '>&', $output) && exec('node', "$McTest::root/test/unit/server.js");
		POSIX::_exit(127);
	}
	push @pipes, $end;
	close $input;
	close $output;
	return decode_json(scalar readline $result);
}

1;
